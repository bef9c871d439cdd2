"""niimpi smooth --like: the numbers of other programs, compared with these programs on the same files.

niimath and nibabel run from this Python's environment; nilearn, SimpleITK and ANTsPy from .venv-ants;
mrfilter and wb_command from the PATH. Programs that are missing are skipped. SPM, AFNI and FSL cannot be run
here: their presets are compared with formulas (like_formulas.py). The closing lines have the figures.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import nibabel.processing
import numpy as np
import pytest

import ants_reference
import images
import like_formulas
from program import HAS_RANKS, run, smooth
from reference import HAS_AVX512, tally
from test_ranks import sums

pytestmark = [pytest.mark.timeout(600), pytest.mark.arithmetic]

FWHM = 5.0
NIIMATH = Path(sys.executable).with_name("niimath")
TOOLS = ("fsl", "niimath", "spm", "nilearn", "nibabel", "mrtrix", "wb", "afni", "itk", "ants")
UNCHECKED = ("fsl", "spm", "afni")

# The largest difference that is allowed, as a part of the largest intensity; 0 is bit for bit. niimath is
# compiled with -ffast-math, which leaves the order of its sums to the compiler.
BOUNDS = dict.fromkeys(TOOLS, 0.0) | {"niimath": 1e-6, "fsl": 2e-6, "afni": 2e-6, "spm": 1e-7}
# wb_command computes the affine of a quaternion in single precision.
QUATERNION_BOUND = 1e-6
if not HAS_AVX512:
    # Without AVX-512 numpy has another exp.
    BOUNDS |= {"nilearn": 1e-6, "nibabel": 1e-6}


def missing(tool):
    """Why a tool cannot be compared with, or None."""
    if tool in ("nilearn", "itk", "ants"):
        return ants_reference.MISSING
    if tool == "niimath" and not NIIMATH.exists():
        return f"{NIIMATH} is missing"
    program = {"mrtrix": "mrfilter", "wb": "wb_command"}.get(tool)
    if program and not shutil.which(program):
        return f"{program} is not on the PATH"
    return None


class Agreement:
    """Counts of one tool."""

    def __init__(self):
        self.images = self.voxels = self.equal = 0
        self.worst = 0.0

    def line(self, tool):
        with_what = "its formula" if tool in UNCHECKED else "the program"
        return (
            f"--like {tool:8} {self.images:4} images {self.voxels:9} voxels beside {with_what}: {self.equal} "
            f"images equal, worst {self.worst:.1e} of the largest intensity"
        )


@pytest.fixture(scope="module")
def agreement():
    counts = {}
    yield counts
    tally.lines += [count.line(tool) for tool, count in counts.items()]


@pytest.fixture(scope="module")
def ants(tmp_path_factory):
    if ants_reference.MISSING:
        yield None
        return
    with ants_reference.Ants(tmp_path_factory.mktemp("ants")) as process:
        yield process


def turned(*sizes):
    """An oblique affine, of a rotation about an axis of no symmetry."""
    x, y, z = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.eye(3) + np.sin(0.5) * cross + (1 - np.cos(0.5)) * cross @ cross
    affine = np.eye(4)
    affine[:3, :3] = rotation * sizes
    return affine


def cases():
    """Name → array, voxel sizes, and other options of the header."""
    rng = np.random.default_rng(40)
    noise = (rng.standard_normal((21, 18, 16)) * 300 + 500).astype(np.float32)
    impulse = np.zeros((21, 18, 16), np.float32)
    impulse[10, 9, 8] = impulse[0, 0, 0] = impulse[20, 0, 15] = 1000
    holes = noise.copy()
    holes[3:6, 4:7, 5:8], holes[15, 15, 15], holes[0, 17, 0] = np.nan, np.inf, -np.inf
    cube = (2.0, 2.0, 2.0)
    permuted = np.diag([0.0, 0, 0, 1])
    permuted[0, 2], permuted[1, 0], permuted[2, 1] = 1.5, -2.0, 2.5
    yield "iso", noise, cube, {}
    yield "1x2x3", noise, (1.0, 2.0, 3.0), {}
    yield "small", noise, (0.7, 1.1, 1.3), {}
    yield "large", noise, (4.0, 4.0, 4.5), {}
    yield "oblique", noise, (1.6, 2.0, 2.7), {"affine": turned(1.6, 2.0, 2.7)}
    yield "flipped", noise, (2.0, 2.0, 3.0), {"affine": images.diagonal(-2, 2, -3)}
    yield "permuted", noise, (2.0, 2.5, 1.5), {"affine": permuted}
    yield "tiny", noise[:3, :4, :2], cube, {}
    yield "one_slice", noise[:, :, :1], cube, {}
    yield "impulse", impulse, cube, {}
    yield "constant", np.full((12, 11, 10), 7.25, np.float32), cube, {}
    yield "holes", holes, cube, {}
    yield "uint8", rng.integers(0, 256, (15, 14, 13), dtype=np.uint8), cube, {}
    yield "int16", rng.integers(-3000, 3000, (15, 14, 13)).astype(np.int16), cube, {}
    yield "scaled", rng.integers(-3000, 3000, (15, 14, 13)).astype(np.int16), cube, {"slope": 0.37}
    yield "shifted", rng.integers(0, 3000, (15, 14, 13)).astype(np.int16), cube, {"slope": 0.5, "inter": -10}
    yield "float64", rng.standard_normal((15, 14, 13)) * 1e3, cube, {}
    series = [noise[:12, :11, :10], noise[1:13, 2:13, 3:13], noise[:12, 7:, :10]]
    yield "series", np.stack(series, -1), cube, {}


def write_cases(folder, which=lambda _: True):
    paths = []
    for name, array, sizes, others in cases():
        if which(name):
            others = {"affine": images.diagonal(*sizes)} | others
            array = np.ascontiguousarray(array)
            paths.append(images.write(folder / f"{name}.nii", array, zooms=sizes, **others))
    return paths


def called(command, result, folder):
    """The voxels that a program of its own writes."""
    env = {**os.environ, "FSLOUTPUTTYPE": "NIFTI", "MRTRIX_QUIET": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([str(word) for word in command], check=True, capture_output=True, cwd=folder, env=env)
    return np.asarray(nibabel.load(result).dataobj)


def by_volume(image, folder, smoothed):
    """A series in its volumes."""
    if image.ndim < 4:
        return smoothed(Path(image.get_filename()))
    results = []
    for number in range(image.shape[3]):
        path = folder / f"volume_{number}.nii"
        nibabel.save(image.slicer[..., number], path)
        results.append(smoothed(path))
    return np.stack(results, -1)


def expected(tool, path, fwhm, folder, ants):
    """What the program itself, or else its formula, makes of an image. One width, or one for each axis."""
    image = nibabel.load(path)
    result = folder / "result.nii"
    result.unlink(missing_ok=True)
    if tool == "niimath":
        sigma = fwhm / 2.3548200450309493
        # It writes one slice without a third axis.
        return called([NIIMATH, path, "-s", f"{sigma:.17g}", result], result, folder).reshape(image.shape)
    if tool == "mrtrix":
        widths = ",".join(map(str, np.atleast_1d(fwhm)))
        return called(["mrfilter", path, "smooth", result, "-fwhm", widths], result, folder)
    if tool == "wb":
        return called(["wb_command", "-volume-smoothing", path, fwhm, result, "-fwhm"], result, folder)
    if tool == "nibabel":
        return np.asarray(nibabel.processing.smooth_image(image, fwhm).dataobj)
    if tool in UNCHECKED:
        return getattr(like_formulas, tool)(image, fwhm)
    return by_volume(image, folder, lambda path: ants.smooth(tool, path, fwhm))


def difference(ours, reference):
    """0 if all voxels are equal, else the largest difference as a part of the largest intensity."""
    ours, reference = ours.astype(float), reference.astype(float)
    assert ours.shape == reference.shape
    odd = ~np.isfinite(reference)
    assert np.array_equal(ours[odd], reference[odd], equal_nan=True), "other values of NaN or infinity"
    assert np.isfinite(ours[~odd]).all(), "NaN or infinity in other places"
    finite = np.isfinite(reference)
    ours, reference = ours[finite], reference[finite]
    if (ours == reference).all():
        return 0.0
    return np.abs(ours - reference).max() / np.abs(reference).max()


def compare(tool, paths, output, fwhm, folder, ants, agreement):
    bad = []
    count = agreement.setdefault(tool, Agreement())
    for path in paths:
        reference = expected(tool, path, fwhm, folder, ants)
        image = nibabel.load(output / path.name)
        assert image.get_data_dtype().kind == "f" and image.dataobj.slope == 1
        part = difference(np.asarray(image.dataobj), reference)
        count.images += 1
        count.voxels += reference.size
        count.equal += part == 0
        count.worst = max(count.worst, part)
        if part > (QUATERNION_BOUND if (tool, path.stem) == ("wb", "qform") else BOUNDS[tool]):
            bad.append(f"{path.name}: {part:.2e}")
    assert paths and not bad, f"--like {tool}: {', '.join(bad)}"


def skip_if_missing(tool):
    reason = missing(tool)
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize("tool", TOOLS)
def test_every_kind_of_image(tmp_path, tool, ants, agreement):
    skip_if_missing(tool)
    paths = write_cases(tmp_path / "in")
    smooth(tmp_path / "in", tmp_path / "out", "--like", tool, "--fwhm", FWHM)
    compare(tool, paths, tmp_path / "out", FWHM, tmp_path, ants, agreement)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("fwhm", [1.0, 2.5, 8.0, 11.3])
def test_widths(tmp_path, tool, fwhm, ants, agreement):
    skip_if_missing(tool)
    paths = write_cases(tmp_path / "in", lambda name: name in ("1x2x3", "small", "large", "int16", "tiny"))
    smooth(tmp_path / "in", tmp_path / "out", "--like", tool, "--fwhm", fwhm)
    compare(tool, paths, tmp_path / "out", fwhm, tmp_path, ants, agreement)


@pytest.mark.parametrize("tool", ["nilearn", "nibabel", "mrtrix", "itk"])
def test_a_width_for_each_axis(tmp_path, tool, ants, agreement):
    """MRtrix counts the axes from right, anterior and superior, the others as the file does."""
    skip_if_missing(tool)
    paths = write_cases(tmp_path / "in", lambda name: name in ("iso", "1x2x3", "permuted", "flipped"))
    smooth(tmp_path / "in", tmp_path / "out", "--like", tool, "--fwhm", "4,6,7.5")
    compare(tool, paths, tmp_path / "out", [4, 6, 7.5], tmp_path, ants, agreement)


@pytest.mark.parametrize("tool", TOOLS)
def test_headers_whose_voxel_sizes_disagree(tmp_path, tool, ants, agreement):
    """Each program takes the voxel size from its own field."""
    skip_if_missing(tool)
    array = np.random.default_rng(41).standard_normal((14, 13, 12)).astype(np.float32)
    folder = tmp_path / "in"
    paths = [
        images.write(folder / "sform.nii", array, zooms=(2.0, 2.0, 2.5), affine=images.diagonal(1.5, 3, 2)),
    ]
    header = images.header_for(array, zooms=(1.5, 2.0, 2.5))
    header.set_qform(turned(1.5, 2.0, 2.5), code=1)
    paths.append(images.write(folder / "qform.nii", array, header))
    smooth(folder, tmp_path / "out", "--like", tool, "--fwhm", FWHM)
    compare(tool, paths, tmp_path / "out", FWHM, tmp_path, ants, agreement)


@pytest.mark.parametrize("tool", TOOLS)
def test_sigma_is_fwhm_over_the_tools_factor(tmp_path, tool):
    factor = {"mrtrix": 2.3548, "ants": 2.355, "afni": 1 / 0.42466090}.get(tool, 2.3548200450309493)
    write_cases(tmp_path / "in", lambda name: name in ("1x2x3", "int16"))
    smooth(tmp_path / "in", tmp_path / "fwhm", "--like", tool, "--fwhm", FWHM)
    smooth(tmp_path / "in", tmp_path / "sigma", "--like", tool, "--sigma-mm", FWHM / factor)
    for path in images.results(tmp_path / "fwhm"):
        one, other = (np.asarray(nibabel.load(tmp_path / of / path.name).dataobj) for of in ("fwhm", "sigma"))
        # A weight may differ in its last bit, which moves a whole number across its rounding.
        assert difference(one, other) < (1e-6 if path.name.startswith("1") else 1e-3)


@pytest.mark.ranks
def test_bytes_do_not_depend_on_ranks_or_threads(tmp_path):
    rng = np.random.default_rng(42)
    for name, shape in (("deep", (70, 64, 150)), ("flat", (40, 30, 2)), ("series", (24, 21, 18, 3))):
        array = (rng.standard_normal(shape) * 100).astype(np.float32)
        array[3, 4, 1] = np.nan
        images.write(tmp_path / "in" / f"{name}.nii.gz", array, zooms=(2.0, 2.5, 1.5))
    for tool in TOOLS:
        words = ("--like", tool, "--fwhm", 7)
        smooth(tmp_path / "in", tmp_path / f"{tool}", *words)
        alone = sums(tmp_path / f"{tool}")
        for ranks, threads in ((1, 3), (2, 2), (3, 1)) if HAS_RANKS else ((None, 3),):
            output = tmp_path / f"{tool}_{ranks}_{threads}"
            smooth(tmp_path / "in", output, *words, ranks=ranks, threads=threads)
            assert sums(output) == alone, (tool, ranks, threads)
            shutil.rmtree(output)


def test_the_output_type_is_free(tmp_path):
    write_cases(tmp_path / "in", lambda name: name in ("iso", "int16"))
    for tool in TOOLS:
        smooth(tmp_path / "in", tmp_path / tool, "--like", tool, "--fwhm", FWHM)
        smooth(tmp_path / "in", tmp_path / "whole", "--like", tool, "--fwhm", FWHM, "--output-type=int16")
        for path in images.results(tmp_path / tool):
            real = np.asarray(nibabel.load(path).dataobj)
            whole = np.asarray(nibabel.load(tmp_path / "whole" / path.name).dataobj)
            assert whole.dtype == np.int16
            # Rounded once, from what the program has, which may be double.
            assert np.abs(whole - real).max() <= 0.5 + 1e-3, (tool, path)
        shutil.rmtree(tmp_path / "whole")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--boundary=reflect"], "reflect along every axis"),
        (["--cval=0"], "reflect along every axis"),
        (["--truncate=4"], "4 sigmas, rounded to whole voxels"),
        (["--nan=zero"], "zero for NaN and infinity"),
        (["--round=nearest"], "floating-point results"),
        (["--mask=nonzero"], "the whole image"),
    ],
)
def test_options_that_a_preset_fixes_are_refused(tmp_path, words, said):
    images.series(tmp_path / "in", 1)
    output = tmp_path / "out"
    refused = smooth(tmp_path / "in", output, "--like=nilearn", "--fwhm=6", *words, expect=2)
    assert said in refused.stderr and "--like nilearn" in refused.stderr, refused
    assert not output.exists()


def test_widths_in_voxels_are_refused(tmp_path):
    images.series(tmp_path / "in", 1)
    refused = smooth(tmp_path / "in", tmp_path / "out", "--like=fsl", "--sigma=2", expect=2)
    assert "--fwhm or --sigma-mm" in refused.stderr, refused
    refused = smooth(tmp_path / "in", tmp_path / "out", "--sigma-mm=2", expect=2)
    assert "--like" in refused.stderr, refused


def test_what_a_program_does_in_another_way_fails_the_image(tmp_path):
    array = np.ones((12, 11, 10), np.float32)
    sheared = np.diag([2.0, 2, 2, 1])
    sheared[0, 1] = 0.4
    images.write(tmp_path / "in" / "a.nii", array, zooms=(2.0, 2.0, 2.0), affine=sheared)
    failed = smooth(tmp_path / "in", tmp_path / "wb", "--like=wb", "--fwhm=6", expect=1)
    assert "right angles" in failed.stderr, failed
    failed = smooth(tmp_path / "in", tmp_path / "afni", "--like=afni", "--fwhm=80", expect=1)
    assert "Fourier" in failed.stderr and "above 35" in failed.stderr, failed


def test_the_report_names_the_preset(tmp_path):
    images.series(tmp_path / "in", 2)
    finished = smooth(tmp_path / "in", tmp_path / "out", "--like=spm", "--fwhm=6")
    described, options = finished.report["filter"], finished.report["options"]["filter"]
    assert described["like"] == options["like"] == "spm" and options["fwhm"] == 6
    assert described["reference"] == "SPM12 spm_smooth (by formula, not checked against the program)"
    assert "not checked against the program" in finished.stdout
    # The values are the preset's.
    assert described["boundary"] == "zeros along x and y, kernel cut at the edge and renormalised along z"
    assert described["nan"] == "zero for NaN and infinity" and described["truncate"] == 6
    assert described["round"].startswith("rounding to the nearest value that the input's type")
    other = smooth(tmp_path / "in", tmp_path / "out", "--like=fsl", "--fwhm=6", "--resume", expect=2)
    assert "options" in other.stderr, other
    same = smooth(tmp_path / "in", tmp_path / "out", "--like=spm", "--fwhm=6", "--resume")
    assert [image["reason"] for image in same.report["images"]] == ["kept"] * 2


@pytest.mark.parametrize(("slices", "warns"), [(1, False), (5, True), (6, False)])
def test_an_axis_that_afni_leaves_alone_is_named(tmp_path, slices, warns):
    array = np.random.default_rng(43).random((24, 20, slices)).astype(np.float32)
    images.write(tmp_path / "in" / "a.nii", array, zooms=(2.0, 2.0, 2.0))
    finished = smooth(tmp_path / "in", tmp_path / "out", "--like=afni", "--fwhm=8")
    (record,) = finished.report["images"]
    kinds = [warning["kind"] for warning in record.get("warnings", [])]
    assert kinds == ["short_axis"] * warns, finished
    assert ("afni does not smooth along z, where the image has 5 voxels" in finished.stderr) == warns
    assert (record["sigma_vox"][2] == 0) == (slices < 6)


@pytest.mark.parametrize("tool", TOOLS)
def test_integers_that_a_program_truncates(tmp_path, tool):
    rng = np.random.default_rng(44)
    images.write(tmp_path / "in" / "a.nii", images.random_array(rng, (12, 11, 10), "int16"))
    images.write(tmp_path / "in" / "b.nii", images.random_array(rng, (12, 11, 10), "float32"))
    finished = smooth(tmp_path / "in", tmp_path / "out", "--like", tool, "--fwhm=4")
    line = f"1 integer image was cut to whole numbers after each axis, as {tool} does"
    assert (line in finished.stderr) == (tool in ("itk", "nibabel")), finished


def test_a_missing_width_is_named(tmp_path):
    refused = run(["smooth", str(tmp_path), "--output", str(tmp_path / "out"), "--like=itk"])
    assert refused.code == 2 and "--fwhm <MM[,Y,Z]>, with --like also --sigma-mm" in refused.stderr, refused
