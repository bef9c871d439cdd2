"""Smooths images one after the other with smooth_img of nilearn and the FWHM of a sigma of 2 mm.

usage: nilearn_smooth.py OUTPUT_FOLDER IMAGE...
"""

import sys
from pathlib import Path

from nilearn.image import smooth_img

FWHM_MM = 2 * 2.3548200450309493
for path in sys.argv[2:]:
    smooth_img(path, FWHM_MM).to_filename(Path(sys.argv[1]) / Path(path).name)
