"""Compares the results of `niimpi smooth` with scipy.ndimage.gaussian_filter on nibabel's array, bit for bit.

Every test smooths a whole folder in one run and compares each output. The session ends with a line of counts.
"""

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

import images
import reference
from program import smooth
from reference import BOUNDARIES, compare

SIGMAS = {
    "2": 2.0,
    "0.7": 0.7,
    "fractional-anisotropic": (1.3, 2.5, 0.6),
    "zero-on-an-axis": (1.0, 0.0, 2.0),
    "larger-than-the-image": (25.0, 9.0, 14.5),
    "all-zero": 0.0,
}

SHAPES = {
    "3d": (9, 10, 11),
    "simd": (35, 8, 5),
    "x1": (1, 7, 5),
    "y1": (6, 1, 2),
    "z1": (5, 2, 1),
    "one": (1, 1, 1),
    "1d": (13,),
    "2d": (12, 9),
    "4d": (5, 6, 4, 3),
    "5d": (4, 3, 3, 2, 2),
    "7d": (3, 4, 2, 1, 2, 1, 2),
}


def flag(name, value):
    """An option in the form that takes negative numbers: --name=1.0,2.0."""
    return f"--{name}=" + ",".join(repr(float(part)) for part in np.atleast_1d(value))


@pytest.fixture(scope="module")
def every_type(tmp_path_factory):
    """Every datatype × byte order × shape; every third file compressed."""
    folder = tmp_path_factory.mktemp("types")
    rng = np.random.default_rng(20261123)
    paths = []
    for datatype in images.DATATYPES:
        for order_name, order in images.ORDERS.items():
            for shape_name, shape in SHAPES.items():
                ending = ".nii.gz" if len(paths) % 3 == 0 else ".nii"
                array = images.random_array(rng, shape, datatype)
                paths.append(
                    images.write(folder / datatype / f"{order_name}_{shape_name}{ending}", array, order=order)
                )
    return folder, paths


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_every_datatype_byte_order_and_boundary(every_type, tmp_path, boundary, sigma):
    folder, paths = every_type
    finished = smooth(
        folder, tmp_path / "out", flag("sigma", SIGMAS[sigma]), "--boundary", boundary, threads=2
    )
    done = compare(paths, finished.report, f"types, {boundary}", sigma=SIGMAS[sigma], boundary=boundary)
    assert done == 10 * 2 * len(SHAPES) == len(paths)


@pytest.fixture(scope="module")
def every_length(tmp_path_factory):
    """Axes of every length up to 40 in x, y and z, because vectors and blocks of a fast filter begin and end
    there."""
    folder = tmp_path_factory.mktemp("lengths")
    rng = np.random.default_rng(7)
    paths = []
    for datatype in ("uint8", "int16", "float32", "float64"):
        for length in range(1, 41):
            for axis in range(3):
                shape = [3, 4, 2]
                shape[axis] = length
                array = images.random_array(rng, shape, datatype)
                paths.append(images.write(folder / datatype / f"{'xyz'[axis]}{length}.nii", array))
        for shape in ((67, 33, 19), (64, 64, 8), (130, 5, 70)):
            array = images.random_array(rng, shape, datatype)
            paths.append(images.write(folder / datatype / f"s{shape[0]}.nii", array))
    return folder, paths


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("sigma", [1.5, 3.2])
def test_every_length_of_axis(every_length, tmp_path, boundary, sigma):
    folder, paths = every_length
    finished = smooth(folder, tmp_path / "out", flag("sigma", sigma), "--boundary", boundary, threads=2)
    compare(paths, finished.report, f"lengths, {boundary}", sigma=sigma, boundary=boundary)


@pytest.mark.parametrize("cval", [17.5, 100.0])
def test_constant_beyond_the_edge(every_type, tmp_path, cval):
    folder, paths = every_type
    finished = smooth(
        folder, tmp_path / "out", flag("sigma", 1.5), "--boundary=constant", flag("cval", cval), threads=2
    )
    compare(paths, finished.report, "cval", sigma=1.5, boundary="constant", cval=cval)


def test_negative_constant_beyond_the_edge(every_type, tmp_path):
    folder, paths = every_type
    signed = ("int8", "int16", "int32", "int64", "float32", "float64")
    folders = [folder / datatype for datatype in signed]
    paths = [path for path in paths if path.parent.name in signed]
    # One run per folder, because the files have the same names.
    for one in folders:
        out = tmp_path / one.name
        finished = smooth(one, out, flag("sigma", 2), "--boundary=constant", flag("cval", -3.25), threads=2)
        own = [path for path in paths if path.parent == one]
        compare(own, finished.report, "cval", sigma=2, boundary="constant", cval=-3.25)


@pytest.mark.parametrize(("sigma", "truncate"), [(1.3, 2.5), (2.0, 1.0), (1.0, 0.3), (0.9, 6.0), (0.1, 4.0)])
def test_truncate(every_type, tmp_path, sigma, truncate):
    folder, paths = every_type
    finished = smooth(folder, tmp_path / "out", flag("sigma", sigma), flag("truncate", truncate), threads=2)
    compare(paths, finished.report, "truncate", sigma=sigma, truncate=truncate)


@pytest.fixture(scope="module")
def scaled(tmp_path_factory):
    """Slopes and intercepts for every datatype: negative, tiny, an intercept alone, and invalid slopes, which
    count as none."""
    folder = tmp_path_factory.mktemp("scaled")
    rng = np.random.default_rng(3)
    pairs = [(2, 0), (0.1, -10), (1, 5.5), (-1.5, 3), (1e-3, 1e3), (0, 3), (np.nan, 0), (np.inf, 0), (1, 0)]
    paths = []
    for datatype in images.DATATYPES:
        for number, (slope, inter) in enumerate(pairs):
            array = images.random_array(rng, (7, 9, 6) if number % 2 else (5, 4, 3, 2), datatype)
            order = "<>"[number % 2]
            path = folder / f"{datatype}_{number}.nii.gz"
            paths.append(images.write(path, array, order=order, slope=slope, inter=inter))
    return folder, paths


@pytest.mark.parametrize("output_type", ["same", "float32", "float64"])
@pytest.mark.parametrize("sigma", [(1.3, 0.8, 2.0), 0.0], ids=["smoothed", "not-smoothed"])
def test_scaled_images(scaled, tmp_path, output_type, sigma):
    folder, paths = scaled
    finished = smooth(folder, tmp_path / "out", flag("sigma", sigma), "--output-type", output_type)
    compare(paths, finished.report, "slope and intercept", sigma=sigma, output_type=output_type)


@pytest.fixture(scope="module")
def small_types(tmp_path_factory):
    """Every datatype once, with and without scale, with values that saturate narrower types on both sides."""
    folder = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(11)
    paths = []
    for datatype in images.DATATYPES:
        array = images.random_array(rng, (8, 7, 9), datatype)
        paths.append(images.write(folder / f"{datatype}.nii.gz", array))
        paths.append(images.write(folder / f"{datatype}_scaled.nii.gz", array, slope=0.5, inter=-20))
    return folder, paths


@pytest.mark.parametrize("output_type", images.DATATYPES)
def test_output_types(small_types, tmp_path, output_type):
    """Floats are as in scipy. Integer types other than the image's own are rounded and saturated once, at the
    end."""
    folder, paths = small_types
    for sigma in (0.8, (2.0, 0.0, 1.1)):
        out = tmp_path / str(np.atleast_1d(sigma)[0])
        finished = smooth(folder, out, flag("sigma", sigma), "--output-type", output_type)
        compare(paths, finished.report, "output type", sigma=sigma, output_type=output_type)


@pytest.mark.parametrize("boundary", ["reflect", "wrap"])
def test_round_nearest(small_types, tmp_path, boundary):
    folder, paths = small_types
    finished = smooth(folder, tmp_path / "out", flag("sigma", 1.2), "--round=nearest", "--boundary", boundary)
    compare(paths, finished.report, "round nearest", sigma=1.2, round_nearest=True, boundary=boundary)


def test_rounding_does_not_lower_the_mean(tmp_path):
    """The reason for --round nearest: truncation at each axis lowers the mean by more than one grey level."""
    array = np.random.default_rng(5).integers(0, 90, (30, 30, 30), dtype="uint8")
    path = images.write(tmp_path / "in" / "a.nii", array)
    means = {}
    for rounding in ([], ["--round=nearest"]):
        finished = smooth(path, tmp_path / f"out{len(rounding)}", "--sigma=2", *rounding)
        means[len(rounding)] = (
            reference.array_of(finished.report["images"][0]["output"])[0].mean() - array.mean()
        )
    assert means[0] < -1 and abs(means[1]) < 0.1, means


@pytest.fixture(scope="module")
def voxel_sizes(tmp_path_factory):
    """Voxel sizes from the sform, the qform or pixdim only, isotropic and anisotropic."""
    folder = tmp_path_factory.mktemp("sizes")
    rng = np.random.default_rng(17)
    paths = []
    for number, sizes in enumerate([(2, 2, 2), (1, 1.5, 3), (0.8, 0.8, 2.2), (0.9375, 0.9375, 1.2)]):
        for datatype in ("int16", "float32"):
            array = images.random_array(rng, (12, 11, 10), datatype)
            both = images.header_for(array, zooms=sizes, affine=images.diagonal(*sizes))
            quaternion = images.header_for(array, zooms=sizes)
            quaternion["qform_code"] = 1
            plain = images.header_for(array, zooms=sizes)
            for name, header in (("sform", both), ("qform", quaternion), ("pixdim", plain)):
                paths.append(images.write(folder / f"{datatype}_{number}_{name}.nii.gz", array, header))
    flat = images.random_array(rng, (20, 15), "float32")
    paths.append(images.write(folder / "flat.nii", flat, zooms=(1.25, 0.5)))
    return folder, paths


@pytest.mark.parametrize("fwhm", [6.0, (4.0, 6.5, 8.0), (5.0, 0.0, 3.0)])
def test_fwhm_in_mm(voxel_sizes, tmp_path, fwhm):
    folder, paths = voxel_sizes
    finished = smooth(folder, tmp_path / "out", flag("fwhm", fwhm))
    compare(paths, finished.report, "fwhm", fwhm=fwhm)


def test_the_affine_wins_over_pixdim_and_a_warning_names_the_image(tmp_path):
    rng = np.random.default_rng(19)
    array = images.random_array(rng, (12, 11, 10), "float32")
    agree = images.write(
        tmp_path / "in" / "agreeing.nii", array, zooms=(3, 2, 1), affine=images.diagonal(3, 2, 1)
    )
    differ = images.write(
        tmp_path / "in" / "differing.nii", array, zooms=(1, 1, 1), affine=images.diagonal(3, 2, 1)
    )
    finished = smooth(tmp_path / "in", tmp_path / "out", "--fwhm=6")
    compare([agree, differ], finished.report, "fwhm", fwhm=6.0)
    warnings = [line for line in finished.stderr.splitlines() if "differing.nii" in line]
    assert warnings, f"a warning must name the image\n{finished}"
    assert "agreeing.nii" not in finished.stderr, finished.stderr


def test_fwhm_of_an_oblique_image(tmp_path):
    """Column lengths of a rotated affine are rounded, so sigma may differ in its last bit here."""
    array = images.random_array(np.random.default_rng(23), (12, 11, 10), "float64")
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn * (2.0, 1.0, 3.0)
    path = images.write(tmp_path / "in" / "oblique.nii", array, zooms=(2, 1, 3), affine=affine)
    finished = smooth(path, tmp_path / "out", "--fwhm=5")
    a, image = reference.array_of(path)
    result, _ = reference.array_of(finished.report["images"][0]["output"])
    sigma = reference.per_axis(np.divide(5.0 / (2 * np.sqrt(2 * np.log(2))), (2.0, 1.0, 3.0)), 3)
    with_numpy = reference._scipy_kernel
    kept, reference._filters._gaussian_kernel1d = reference._filters._gaussian_kernel1d, with_numpy
    try:
        near = reference.expected(a, False, sigma)
    finally:
        reference._filters._gaussian_kernel1d = kept
    np.testing.assert_allclose(result, near, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("boundary", ["reflect", "constant"])
def test_nan_and_infinity(tmp_path, boundary):
    """They spread as far as the kernel reaches, as in scipy. Infinities of both signs add up to NaN."""
    rng = np.random.default_rng(29)
    paths = []
    for datatype in images.FLOATS:
        for name, marks in {
            "nan": [((5, 5, 5), np.nan)],
            "inf": [((2, 3, 4), np.inf)],
            "both": [((2, 3, 4), np.inf), ((9, 3, 4), -np.inf)],
            "edge": [((0, 0, 0), np.nan), ((11, 10, 9), -np.inf)],
            "huge": [((4, 4, 4), np.finfo(datatype).max), ((5, 4, 4), np.finfo(datatype).max)],
            "tiny": [((4, 4, 4), np.finfo(datatype).tiny / 64)],
            "none": [],
        }.items():
            array = images.random_array(rng, (12, 11, 10), datatype)
            if name == "tiny":
                array *= np.finfo(datatype).tiny
            for place, value in marks:
                array[place] = value
            for order_name, order in images.ORDERS.items():
                paths.append(
                    images.write(tmp_path / "in" / f"{datatype}_{name}_{order_name}.nii", array, order=order)
                )
    with np.errstate(all="ignore"):
        for number, sigma in enumerate([0.8, (0.0, 1.0, 0.0), 3.0]):
            out = tmp_path / f"out{number}"
            finished = smooth(tmp_path / "in", out, flag("sigma", sigma), "--boundary", boundary)
            compare(paths, finished.report, "NaN and infinity", sigma=sigma, boundary=boundary)


@pytest.fixture(scope="module")
def containers(tmp_path_factory):
    """The ways to store an image: NIfTI versions, pairs, offsets, extensions, forms of gzip."""
    folder = tmp_path_factory.mktemp("containers")
    rng = np.random.default_rng(31)
    paths = []
    comment = images.extension(6, b"made for a test")
    for order_name, order in images.ORDERS.items():
        for datatype in ("uint8", "int16", "float32", "float64"):
            array = images.random_array(rng, (9, 8, 7), datatype)
            here = folder / order_name / datatype
            first = {"order": order}
            second = {"order": order, "version": 2}
            paths += [
                images.write(here / "nifti2.nii", array, **second),
                images.write(here / "nifti2z.nii.gz", array, **second),
                images.write(
                    here / "nifti2_extended.nii.gz",
                    array,
                    extensions=images.extension(6, b"x" * 90, order),
                    **second,
                ),
                images.write(
                    here / "extended.nii", array, extensions=images.extension(4, b"<a/>", order), **first
                ),
                images.write(
                    here / "two_extensions.nii.gz",
                    array,
                    extensions=images.extension(6, b"one", order) + images.extension(44, b"two" * 30, order),
                    **first,
                ),
                images.write(here / "offset400.nii", array, vox_offset=400, **first),
                images.write(here / "offset1024.nii.gz", array, vox_offset=1024, **first),
                images.write_pair(here / "pair.hdr", array, **first),
                images.write_pair(here / "pairz.hdr.gz", array, **first),
                images.write_pair(here / "pair16.hdr", array, vox_offset=16, **first),
                images.write_pair(here / "pair2.hdr", array, **second),
                images.write(here / "a.b.nii.gz", array, **first),
                images.write(here / "with space and ü.nii", array, **first),
            ]
    array = images.random_array(rng, (19, 18, 17), "int16")
    content = images.image_bytes(array, images.header_for(array), comment)
    members = [gzip.compress(content[start : start + 3001], 6) for start in range(0, len(content), 3001)]
    forms = {
        "members.nii.gz": b"".join(members),
        "members_short.nii.gz": gzip.compress(content[:100])
        + gzip.compress(b"")
        + gzip.compress(content[100:]),
        "zeros_after.nii.gz": gzip.compress(content) + b"\0" * 512,
        "stored.nii.gz": gzip.compress(content, 0),
        "best.nii.gz": gzip.compress(content, 9),
        "longer.nii.gz": gzip.compress(content + b"something after the voxels"),
        "longer_plain.nii": content + b"something after the voxels",
    }
    for name, packed in forms.items():
        path = folder / "gzip" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(packed)
        paths.append(path)
    with open(folder / "gzip" / "named.nii.gz", "wb") as raw:
        with gzip.GzipFile("a name inside.nii", "wb", fileobj=raw, mtime=12345) as file:
            file.write(content)
    paths.append(folder / "gzip" / "named.nii.gz")
    return folder, paths


@pytest.mark.parametrize("sigma", [1.0, (2.2, 0.0, 0.5)])
def test_containers(containers, tmp_path, sigma):
    folder, paths = containers
    finished = smooth(folder, tmp_path / "out", flag("sigma", sigma), threads=2)
    compare(paths, finished.report, "containers", sigma=sigma)
    assert finished.report["totals"]["images"] == len(paths), "a pair must count as one image"


def test_an_offset_of_zero(tmp_path):
    """In a single file, niimpi reads 0 as 352, the end of the header. nibabel reads from the first byte."""
    rng = np.random.default_rng(37)
    array = images.random_array(rng, (9, 8, 7), "int16")
    images.write(tmp_path / "in" / "plain.nii", array)
    content = bytearray((tmp_path / "in" / "plain.nii").read_bytes())
    content[108:112] = bytes(4)
    (tmp_path / "in" / "zero.nii").write_bytes(content)
    smooth(tmp_path / "in", tmp_path / "out", "--sigma=1")
    assert (tmp_path / "out" / "zero.nii").read_bytes() == (tmp_path / "out" / "plain.nii").read_bytes()


NIBABEL_SAMPLES = (
    "anatomical.nii",
    "example4d.nii.gz",
    "example_nifti2.nii.gz",
    "functional.nii",
    "reoriented_anat_moved.nii",
    "resampled_anat_moved.nii",
    "standard.nii.gz",
)


@pytest.fixture(scope="module")
def nibabel_samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    source = Path(nibabel.__file__).parent / "tests" / "data"
    missing = [name for name in NIBABEL_SAMPLES if not (source / name).exists()]
    assert not missing, f"nibabel's wheel lacks {missing}"
    return folder, [Path(shutil.copy(source / name, folder)) for name in NIBABEL_SAMPLES]


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_nibabel_samples(nibabel_samples, tmp_path, boundary):
    folder, paths = nibabel_samples
    for number, sigma in enumerate([2.0, (0.7, 1.3, 0.0)]):
        finished = smooth(
            folder, tmp_path / f"out{number}", flag("sigma", sigma), "--boundary", boundary, threads=2
        )
        compare(paths, finished.report, "nibabel's samples", sigma=sigma, boundary=boundary)


def test_nibabel_samples_in_mm(nibabel_samples, tmp_path):
    """Samples whose affines are not rotated, so that their voxel sizes are exact."""
    _, paths = nibabel_samples
    upright = [path for path in paths if path.name in ("anatomical.nii", "standard.nii.gz", "functional.nii")]
    finished = smooth(upright, tmp_path / "out", "--fwhm=6")
    compare(upright, finished.report, "nibabel's samples", fwhm=6.0)


@pytest.mark.skipif(not reference.HAS_AVX512, reason="numpy here has no AVX-512 kernels to compare with")
def test_stored_kernels_are_numpys(request):
    """kernels.json, which machines without AVX-512 need, contains every kernel of this session, with the bits
    of numpy."""
    if request.config.getoption("--write-kernels"):
        pytest.skip("kernels are being written")
    if not reference.used_kernels:
        pytest.skip("no kernel was used in this session")
    wrong = []
    for name, half in reference.used_kernels.items():
        if reference._stored.get(name) != half:
            wrong.append(name)
    assert not wrong, f"{len(wrong)} kernels are missing or differ; run pytest --write-kernels: {wrong[:5]}"


@pytest.mark.skipif(not reference.HAS_AVX512, reason="this session is such a machine already")
@pytest.mark.skipif(not reference._stored, reason="no stored kernels")
@pytest.mark.timeout(600)
def test_the_reference_of_machines_without_avx512(request, tmp_path):
    """Repeats the tests of the nibabel samples and of truncate with the stored kernels, with AVX-512 switched
    off in numpy."""
    if request.config.getoption("--write-kernels"):
        pytest.skip("kernels are being written")
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": "X86_V4", "PYTHONWARNINGS": "ignore"}
    environment.pop("NIIMPI_ORACLE_SUMMARY", None)
    finished = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-k",
            "nibabel_samples or truncate",
            f"--basetemp={tmp_path}/inner",
            __file__,
        ],
        env=environment,
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "kernels: stored" in finished.stdout, finished.stdout
