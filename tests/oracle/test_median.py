"""niimpi median: values as scipy.ndimage.median_filter, and the same bytes for any ranks and threads."""

import nibabel
import numpy as np
import pytest
import scipy.ndimage

import images
from program import smooth
from reference import BOUNDARIES, outputs, stem, tally

pytestmark = [pytest.mark.timeout(120), pytest.mark.arithmetic]

SHAPES = [(9, 10, 11), (70, 5, 3), (1, 7, 5), (1, 1, 1), (12, 9), (5, 6, 4, 3)]
SIZES = [(1, 1, 1), (2, 2, 2), (3, 3, 3), (4, 4, 4), (5, 5, 5), (6, 6, 6), (3, 1, 4), (12, 2, 13)]
VOXEL_MM = (1.0, 0.7, 2.165)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Every datatype and shape, with values in the type's whole range and with few different values."""
    folder = tmp_path_factory.mktemp("median") / "in"
    rng = np.random.default_rng(15)
    for datatype in images.DATATYPES:
        for number, shape in enumerate(SHAPES):
            whole = images.random_array(rng, shape, datatype)
            few = rng.integers(0, 5, shape).astype(datatype)
            for kind, array in (("whole", whole), ("few", few)):
                images.write(folder / f"{datatype}_{number}_{kind}.nii", array, zooms=VOXEL_MM[: len(shape)])
    return folder


def medians(array, window, **options):
    """scipy's medians of each 3-D volume. Only the axes of `window` that the image has are used."""
    axes = min(array.ndim, 3)
    at = (slice(None),) * axes + tuple(size // 2 for size in window.shape[axes:])
    window = window[at]
    how = {"size": window.shape} if window.all() else {"footprint": window}
    if array.ndim <= 3:
        return scipy.ndimage.median_filter(array, **how, **options)
    volumes = [scipy.ndimage.median_filter(array[..., t], **how, **options) for t in range(array.shape[3])]
    return np.stack(volumes, axis=-1)


def compare(folder, finished, window, scaled=False, **options):
    """Compares every result of a run by value; counts them by boundary and datatype."""
    written = outputs(finished.report)
    paths = sorted(folder.glob("*.nii*"))
    bad = []
    for path in paths:
        array = np.asarray(nibabel.load(path).dataobj)
        result = np.asarray(nibabel.load(written[stem(path)]).dataobj)
        reference = medians(array, window, **options)
        reference = reference.astype(np.float32) if scaled else reference
        assert result.dtype == reference.dtype and result.shape == reference.shape, path
        differing = int((result != reference).sum())
        tally.add(f"median {options.get('mode', 'reflect')} {array.dtype}", result.size, differing)
        if differing:
            bad.append(f"{path.name}: {differing} of {result.size} voxels")
    assert paths and not bad, "\n".join(bad)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_boxes(source, tmp_path, boundary, size):
    words = ["--boundary", boundary, "--cval=-3.75", f"--size={','.join(map(str, size))}"]
    finished = smooth(source, tmp_path / "out", *words, command="median", threads=2)
    compare(source, finished, np.ones(size, bool), mode=boundary, cval=-3.75)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_one_axis(tmp_path, boundary, size):
    """scipy searches such arrays in another way, which keeps 64-bit integers that a double does not hold. As
    it takes those from 2⁶³ for negative, there are none here."""
    rng = np.random.default_rng(18)
    for datatype in images.DATATYPES:
        # scipy mirrors arrays of one or two voxels with what lies beyond them in memory.
        for length in (5, 130) if boundary == "mirror" else (1, 2, 5, 130):
            array = images.random_array(rng, (length,), datatype)
            if array.dtype.itemsize == 8 and array.dtype.kind in "iu" and length > 1:
                assert (array.astype("float64").astype(array.dtype) != array).any()
            images.write(tmp_path / "in" / f"{datatype}_{length}.nii", array)
    words = ["--boundary", boundary, "--cval=2", f"--size={size}"]
    finished = smooth(tmp_path / "in", tmp_path / "out", *words, command="median", threads=2)
    compare(tmp_path / "in", finished, np.ones((size, 1, 1), bool), mode=boundary, cval=2)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("footprint", ["cross", "sphere:2.2"])
def test_footprints(source, tmp_path, boundary, footprint):
    words = ["--boundary", boundary, "--cval=2", "--footprint", footprint]
    if footprint == "cross":
        words.append("--size=5,4,3")
        away = [np.arange(size) - size // 2 for size in (5, 4, 3)]
        grid = np.meshgrid(*away, indexing="ij")
        window = sum((axis != 0).astype(int) for axis in grid) <= 1
    else:
        away = [np.arange(-3, 4) * np.float64(np.float32(mm)) for mm in VOXEL_MM]
        grid = np.meshgrid(*away, indexing="ij")
        window = sum(axis**2 for axis in grid) <= 2.2**2
    finished = smooth(source, tmp_path / "out", *words, command="median", threads=2)
    compare(source, finished, window, mode=boundary, cval=2)


@pytest.mark.parametrize(("slope", "inter"), [(0.375, -5.5), (-2.5, 0.0)])
@pytest.mark.parametrize("size", [2, 3])
def test_intensities(tmp_path, slope, inter, size):
    rng = np.random.default_rng(16)
    for datatype in images.DATATYPES:
        array = rng.integers(0, 100, (9, 8, 7)).astype(datatype)
        images.write(tmp_path / "in" / f"{datatype}.nii", array, slope=slope, inter=inter)
    finished = smooth(tmp_path / "in", tmp_path / "out", f"--size={size}", command="median")
    compare(tmp_path / "in", finished, np.ones((size,) * 3, bool), scaled=True)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_images_of_several_slabs(tmp_path, suffix, threads):
    rng = np.random.default_rng(17)
    for datatype in ("uint8", "int16", "float32", "float64"):
        array = images.random_array(rng, (91, 109, 91), datatype)
        images.write(tmp_path / "in" / f"{datatype}{suffix}", array)
    finished = smooth(tmp_path / "in", tmp_path / "out", "--size=3,2,5", command="median", threads=threads)
    compare(tmp_path / "in", finished, np.ones((3, 2, 5), bool))


def test_not_a_number(tmp_path):
    array = np.arange(7 * 6 * 5, dtype=np.float32).reshape((7, 6, 5))
    array[0, 0, 0], array[3, 3, 3] = np.nan, np.inf
    images.write(tmp_path / "in" / "holes.nii", array)
    refused = smooth(tmp_path / "in", tmp_path / "refused", command="median", expect=1)
    assert "--nan ignore" in refused.stderr
    smooth(tmp_path / "in", tmp_path / "out", "--nan=ignore", command="median")
    result = np.asarray(nibabel.load(tmp_path / "out" / "holes.nii").dataobj)
    padded = np.pad(array, 1, mode="symmetric")
    for place in np.ndindex(array.shape):
        window = padded[tuple(slice(i, i + 3) for i in place)]
        finite = np.sort(window[np.isfinite(window)])
        assert result[place] == finite[len(finite) // 2]
