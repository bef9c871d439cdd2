"""A serial Python program: reads with fslpy, smooths with scipy and a sigma of 2 voxels, writes with fslpy.

usage: fslpy_scipy_smooth.py OUTPUT_FOLDER IMAGE...
"""

import sys
from pathlib import Path

import numpy
from fsl.data.image import Image
from scipy.ndimage import gaussian_filter

folder = Path(sys.argv[1])
for path in sys.argv[2:]:
    image = Image(path)
    smoothed = gaussian_filter(numpy.asarray(image.data[:]), 2)
    Image(smoothed, header=image.header).save(filename=str(folder / Path(path).name))
