"""Smooths images one after the other with DiscreteGaussian of SimpleITK, a sigma of 2 voxels and one thread.

usage: simpleitk_smooth.py OUTPUT_FOLDER IMAGE...
"""

import sys
from pathlib import Path

import SimpleITK

SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
VARIANCE_VOX = 2.0**2
MAXIMUM_KERNEL_WIDTH = 32
for path in sys.argv[2:]:
    image = SimpleITK.ReadImage(path)
    smoothed = SimpleITK.DiscreteGaussian(image, VARIANCE_VOX, MAXIMUM_KERNEL_WIDTH, 0.01, False)
    target = str(Path(sys.argv[1]) / Path(path).name)
    SimpleITK.WriteImage(SimpleITK.Cast(smoothed, image.GetPixelID()), target, True)
