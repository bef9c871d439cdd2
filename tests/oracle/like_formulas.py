"""How SPM, AFNI and FSL smooth, by formula, for presets whose programs cannot be run here.

SPM12: spm_smooth.m, spm_smoothkern.m, spm_conv_vol.c. AFNI: edt_blur.c (3dmerge -1blur_fwhm). FSL: fslmaths
-s, newimage's gaussian_kernel3D. All in double; the programs of AFNI and FSL compute in single precision.
"""

import nibabel
import numpy as np
from scipy.special import erf

FWHM_PER_SIGMA = np.sqrt(8 * np.log(2))


def affine_sizes(image):
    return nibabel.affines.voxel_sizes(image.affine)


def along(array, axis, half, source, renormalised=False):
    """A symmetric kernel along an axis; `source(i, n)` gives the voxel at place i, or -1 for none."""
    moved = np.moveaxis(array, axis, 0)
    n, radius = len(moved), len(half) - 1
    weights = np.zeros((n, n))
    for i in range(n):
        for j in range(-radius, radius + 1):
            place = source(i + j, n)
            if place >= 0:
                weights[i, place] += half[abs(j)]
    if renormalised:
        weights /= weights.sum(1, keepdims=True)
    # Row by row: a weight of 0 must not meet NaN.
    rows = [sum(weights[i, j] * moved[j] for j in np.flatnonzero(weights[i])) for i in range(n)]
    return np.moveaxis(np.stack(rows), 0, axis)


def inside(i, n):
    return i if 0 <= i < n else -1


def mirror(i, n):
    return -i if i < 0 else 2 * n - 2 - i if i >= n else i


def mirror_then_reflect(i, n):
    return -i if i < 0 else 2 * n - 1 - i if i >= n else i


def spm(image, fwhm_mm):
    array = np.asarray(image.dataobj).astype(float)
    array = np.where(np.isfinite(array), array, 0)
    for axis in range(3):
        sigma = fwhm_mm / affine_sizes(image)[axis] / FWHM_PER_SIGMA
        variance = sigma**2 + np.finfo(float).eps
        x = np.arange(int(np.floor(6 * sigma + 0.5)) + 1.0)

        def second_difference(f, x=x):
            return f(x + 1) + f(x - 1) - 2 * f(x)

        half = 0.5 * second_difference(lambda x, v=variance: x * erf(x / np.sqrt(2 * v)))
        half += np.sqrt(variance / (2 * np.pi)) * second_difference(
            lambda x, v=variance: np.exp(-(x**2) / (2 * v))
        )
        half = np.maximum(half, 0)
        array = along(array, axis, half / (half[0] + 2 * half[1:].sum()), inside, renormalised=axis == 2)
    kind = image.get_data_dtype()
    if kind.kind in "iu":
        limits, slope, inter = np.iinfo(kind), image.dataobj.slope, image.dataobj.inter
        array = np.clip(np.rint((array - inter) / slope), limits.min, limits.max) * slope + inter
    return array


def afni(image, fwhm_mm):
    kind = image.get_data_dtype().newbyteorder("=")
    whole = kind in (np.dtype("int16"), np.dtype("uint8")) and image.dataobj.inter == 0
    array = image.dataobj.get_unscaled() if whole else np.asarray(image.dataobj)
    array = np.asarray(array).astype(float)
    array = np.where(np.isfinite(array), array, 0)
    sigma = 0.42466090 * fwhm_mm
    for axis in range(3):
        size, n = affine_sizes(image)[axis], array.shape[axis]
        radius = max(1, int(np.ceil(2.5 * sigma / size)))
        if n < 2 or n < radius + 1:
            continue
        x = (np.arange(radius + 1)[:, None] + np.arange(-11, 12) / 22) * size / sigma
        values = np.exp(-(x**2) / 2)
        half = values.sum(1) - (values[:, 0] + values[:, -1]) / 2
        source = mirror if axis == 2 else mirror_then_reflect
        array = along(array, axis, half / (half[0] + 2 * half[1:].sum()), source)
    if whole:
        array = np.where(array >= 0, np.floor(array + 0.5), np.ceil(array - 0.5)) * image.dataobj.slope
    return array


def fsl(image, fwhm_mm):
    array = np.asarray(image.dataobj).astype(float)
    sigma = fwhm_mm / FWHM_PER_SIGMA
    for axis in range(3):
        size = float(abs(image.header["pixdim"][axis + 1]))
        x = np.arange(int(np.ceil(4 * sigma / size)) + 1) * size
        array = along(array, axis, np.exp(-(x**2) / (2 * sigma**2)), inside, renormalised=True)
    return array
