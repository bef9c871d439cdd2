"""Smooths images one after the other with smooth_image of antspyx and a sigma of 2 voxels.

usage: antspyx_smooth.py OUTPUT_FOLDER IMAGE...
"""

import sys
from pathlib import Path

import ants

for path in sys.argv[2:]:
    smoothed = ants.smooth_image(ants.image_read(path), 2.0, sigma_in_physical_coordinates=False)
    ants.image_write(smoothed, str(Path(sys.argv[1]) / Path(path).name))
