"""The reference: computes the expected results with scipy, and counts how often the program agreed.

On every machine, niimpi computes the kernel with the algorithm of numpy's `exp` for CPUs with AVX-512. On
other CPUs numpy's `exp` differs in the last bit. There, these tests give scipy stored kernels (kernels.json,
written on a machine with AVX-512 by `pytest --write-kernels`). Everything else is computed by scipy itself.
"""

import json
from pathlib import Path

import nibabel
import numpy as np
import scipy.ndimage
from scipy.ndimage import _filters

KERNELS_FILE = Path(__file__).with_name("kernels.json")
BOUNDARIES = ("reflect", "nearest", "mirror", "wrap", "constant")

_features = np._core._multiarray_umath.__cpu_features__
HAS_AVX512 = bool(_features.get("AVX512_SKX")) and bool(_features.get("X86_V4", True))

_scipy_kernel = _filters._gaussian_kernel1d
_stored = json.loads(KERNELS_FILE.read_text()) if KERNELS_FILE.exists() else {}
used_kernels = {}


def _name(sigma, radius):
    return f"{float(sigma).hex()} {radius}"


def stored_kernel(sigma, radius):
    """The stored kernel, or None. The file contains the half from the centre outwards."""
    half = _stored.get(_name(sigma, radius))
    if half is None:
        return None
    half = np.array([float.fromhex(weight) for weight in half])
    return np.concatenate([half[:0:-1], half])


def _kernel(sigma, order, radius):
    """Replaces scipy's function `_gaussian_kernel1d`."""
    assert order == 0
    if HAS_AVX512:
        kernel = _scipy_kernel(sigma, order, radius)
        assert (kernel == kernel[::-1]).all()
        used_kernels[_name(sigma, radius)] = [float(weight).hex() for weight in kernel[radius:]]
        return kernel
    kernel = stored_kernel(sigma, radius)
    assert kernel is not None, (
        f"kernels.json has no kernel for sigma {sigma!r}, radius {radius}, and this machine has no AVX-512: "
        "run `pytest --write-kernels` on one that has"
    )
    return kernel


_filters._gaussian_kernel1d = _kernel


def write_kernels():
    """Stores the kernels used since the start."""
    assert HAS_AVX512, "numpy does not use AVX-512 here, so its kernels must not be stored"
    lines = [f"{json.dumps(name)}: {json.dumps(half)}" for name, half in sorted(used_kernels.items())]
    KERNELS_FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def array_of(path):
    """The image's array, as numpy.asarray(dataobj), and its image object."""
    image = nibabel.load(path)
    return np.asarray(image.dataobj), image


def is_scaled(image):
    """Whether the file has an intensity scale (slope or intercept)."""
    return image.dataobj.slope != 1 or image.dataobj.inter != 0


def per_axis(sigma, axes):
    """Sigma of each spatial axis, from one value or one per axis."""
    sigma = [float(value) for value in np.atleast_1d(sigma)]
    return (sigma * 3 if len(sigma) == 1 else sigma)[:axes]


def sigma_from_fwhm(fwhm_mm, image):
    """Sigma in voxels of each spatial axis, from the voxel size of the affine."""
    sizes = nibabel.affines.voxel_sizes(image.affine)
    axes = min(len(image.shape), 3)
    return [f / (2 * np.sqrt(2 * np.log(2))) / sizes[axis] for axis, f in enumerate(per_axis(fwhm_mm, axes))]


def rounded(a, integer_type):
    """`a` rounded to nearest (ties to even) and saturated into an integer type."""
    limits = np.iinfo(integer_type)
    whole = np.rint(a)
    # Doubles cannot hold the limits of 64-bit types: values from 2⁶³ or 2⁶⁴ saturate, others convert exactly.
    too_high = whole >= float(limits.max) if limits.bits < 64 else whole >= float(int(limits.max) + 1)
    too_low = whole <= float(limits.min)
    result = np.where(too_high | too_low, 0.0, whole).astype(integer_type)
    result[too_high] = limits.max
    result[too_low] = limits.min
    return result


def expected(
    a, scaled, sigma, boundary="reflect", cval=0.0, truncate=4.0, output_type="same", round_nearest=False
):
    """The voxels that `niimpi smooth` must write for the array `a`."""
    own = a.dtype.newbyteorder("=")
    if output_type == "same":
        target = np.dtype(np.float32) if scaled else own
    else:
        target = np.dtype(output_type)
    axes = tuple(range(min(a.ndim, 3)))
    rounds = target.kind in "iu" and (target != own or round_nearest)
    filtered = scipy.ndimage.gaussian_filter(
        a,
        per_axis(sigma, len(axes)),
        output=np.float64 if rounds else target,
        mode=boundary,
        cval=cval,
        truncate=truncate,
        axes=axes,
    )
    return rounded(filtered, target) if rounds else filtered


def differing(ours, reference):
    """Number of voxels whose bits differ. All NaN count as equal."""
    ours, reference = np.ascontiguousarray(ours), np.ascontiguousarray(reference)
    bits = np.dtype(f"u{reference.dtype.itemsize}")
    unequal = ours.view(bits) != reference.view(bits)
    if reference.dtype.kind == "f":
        unequal &= ~(np.isnan(ours) & np.isnan(reference))
    return int(np.count_nonzero(unequal))


class Tally:
    """Counts comparisons over the whole session."""

    def __init__(self):
        self.images = self.voxels = self.differ = 0
        self.topics = {}
        self.lines = []  # of comparisons that count in another way

    def add(self, topic, voxels, differ):
        self.images += 1
        self.voxels += voxels
        self.differ += differ
        counts = self.topics.setdefault(topic, {"images": 0, "voxels": 0, "differ": 0})
        counts["images"] += 1
        counts["voxels"] += voxels
        counts["differ"] += differ

    def merge(self, counts):
        """Adds the counts of another process."""
        for topic, other in counts["topics"].items():
            own = self.topics.setdefault(topic, dict.fromkeys(other, 0))
            for key, count in other.items():
                own[key] += count
        for key in ("images", "voxels", "differ"):
            setattr(self, key, getattr(self, key) + counts[key])
        self.lines += counts["lines"]

    def line(self):
        counts = f"{self.images} images, {self.voxels} voxels compared with other programs"
        return f"{counts}, {self.differ} differ"


tally = Tally()


def stem(path):
    """A file's path without its suffixes, so that both files of a pair have the same stem."""
    path = str(path).replace("/./", "/")
    for ending in (".gz", ".nii", ".hdr", ".img"):
        path = path.removesuffix(ending)
    return path


def outputs(report):
    """Input → output of the images that the report lists as done."""
    return {
        stem(record["input"]): record["output"] for record in report["images"] if record["status"] == "done"
    }


def compare(inputs, report, topic, sigma=None, fwhm=None, **options):
    """Compares every output of a run with the reference. Returns the number of images.

    If images differ, fails with a list of them.
    """
    written = outputs(report)
    bad = []
    for path in inputs:
        a, image = array_of(path)
        assert stem(path) in written, f"{path} was not done"
        result, _ = array_of(written[stem(path)])
        sigma_vox = sigma if fwhm is None else sigma_from_fwhm(fwhm, image)
        reference = expected(a, is_scaled(image), sigma_vox, **options)
        assert result.shape == reference.shape, path
        if result.dtype != reference.dtype:
            bad.append(f"{path}: written as {result.dtype}, expected {reference.dtype}")
            continue
        count = differing(result, reference)
        tally.add(topic, reference.size, count)
        if count:
            first = tuple(int(i) for i in np.argwhere(result != reference)[0])
            bad.append(
                f"{Path(path).name} {a.dtype} {a.shape}: {count} of {a.size} voxels, first at {first}: "
                f"{result[first]!r}, expected {reference[first]!r}"
            )
    assert not bad, f"{len(bad)} of {len(inputs)} images differ:\n" + "\n".join(bad[:30])
    return len(inputs)
