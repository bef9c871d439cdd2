"""--method fft: compares the results with scipy's direct sums, and across ranks and threads."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import images
import reference
from program import HAS_RANKS, smooth
from reference import BOUNDARIES, array_of, expected, outputs, stem

pytestmark = pytest.mark.timeout(120)

RANKS = 2 if HAS_RANKS else None
# Of the largest absolute intensity. The bound that the help states.
BOUND = 1e-6
SHAPES = ((19, 17, 14), (7, 1, 33), (1, 1, 1), (12, 9, 8, 3), (40,), (5, 21))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fft") / "in"
    rng = np.random.default_rng(5)
    for number, datatype in enumerate(images.DATATYPES):
        for shape in (SHAPES[number % len(SHAPES)], SHAPES[0]):
            name = f"{datatype}-{'x'.join(map(str, shape))}"
            images.write(folder / f"{name}.nii.gz", images.random_array(rng, shape, datatype))
    scaled = images.random_array(rng, SHAPES[0], "int16")
    images.write(folder / "scaled.nii.gz", scaled, slope=0.37, inter=-5.25)
    return folder


def check(source, report, topic, **options):
    """Compares all results with scipy: floats within the bound, integers with the rounded sums."""
    written = outputs(report)
    for path in sorted(source.iterdir()):
        array, image = array_of(path)
        result, _ = array_of(written[stem(path)])
        scaled = reference.is_scaled(image)
        in_double = expected(array, scaled, output_type="float64", **options)
        largest = max(np.abs(array.astype(float)).max(), abs(options.get("cval", 0)))
        if result.dtype.kind == "f":
            wrong = np.abs(result - in_double) > BOUND * largest
        else:
            # A sum that is nearly half-way between two integers can become either.
            slack = 1e-12 * largest
            low, high = (reference.rounded(in_double + off, result.dtype) for off in (-slack, slack))
            wrong = (result < low) | (result > high)
        count = int(np.count_nonzero(wrong))
        reference.tally.add(topic, result.size, count)
        assert count == 0, f"{path.name}: {count} of {result.size} voxels"


@pytest.mark.arithmetic
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_results_are_those_of_scipy(source, tmp_path, boundary):
    for name, sigma, truncate in (("narrow", 1, 4), ("wide", 9, 4)):
        cval = 7.5 if boundary == "constant" else 0
        words = [f"--sigma={sigma}", f"--boundary={boundary}", f"--cval={cval}", f"--truncate={truncate}"]
        report = smooth(source, tmp_path / name, "--method=fft", *words).report
        options = {"boundary": boundary, "cval": cval, "truncate": truncate}
        check(source, report, "smooth --method fft", sigma=sigma, **options)


def test_bytes_do_not_depend_on_ranks_and_threads(source, tmp_path):
    options = ["--method=fft", "--sigma=2"]
    smooth(source, tmp_path / "one", *options)
    for threads in (2, 3):
        for ranks in (None, RANKS) if HAS_RANKS else (None,):
            out = tmp_path / f"{threads}-{ranks}"
            smooth(source, out, *options, threads=threads, ranks=ranks)
            for path in (tmp_path / "one").glob("*.nii.gz"):
                assert path.read_bytes() == (out / path.name).read_bytes(), (path.name, threads, ranks)
    # One image whose slabs the threads share.
    for path in sorted(source.glob("*19x17x14*")):
        out = tmp_path / f"shared-{path.name}"
        smooth(path, out, *options, threads=3)
        assert (out / path.name).read_bytes() == (tmp_path / "one" / path.name).read_bytes(), path.name


def test_voxels_that_are_not_finite_are_treated_or_the_image_fails(tmp_path):
    array = np.random.default_rng(3).standard_normal((16, 15, 14)).astype("float32")
    array[2:13, 3:14, 4:] = np.nan
    array[0, 0, 0] = np.inf
    images.write(tmp_path / "in" / "a.nii.gz", array)
    finite = np.isfinite(array)
    sums = [
        gaussian_filter(values, 1.0, mode="reflect")
        for values in (np.where(finite, array, 0).astype(float), finite.astype(float))
    ]
    failed = smooth(tmp_path / "in", tmp_path / "failed", "--sigma=1", "--method=fft", expect=1)
    assert "give --nan ignore, keep or zero, or --method direct" in failed.stderr
    for how in ("zero", "ignore", "keep"):
        words = ["--sigma=1", "--method=fft", f"--nan={how}", "--output-type=float64"]
        smooth(tmp_path / "in", tmp_path / how, *words)
        result, _ = array_of(tmp_path / how / "a.nii.gz")
        if how == "zero":
            wanted = sums[0]
        else:
            with np.errstate(invalid="ignore"):
                wanted = np.where(sums[1] > 0, sums[0] / sums[1], np.nan)
            if how == "keep":
                wanted = np.where(finite, wanted, np.nan)
        assert (np.isnan(result) == np.isnan(wanted)).all(), how
        assert np.nanmax(np.abs(result - wanted)) <= BOUND * np.abs(array[finite]).max(), how


def test_the_method_belongs_to_a_result(source, tmp_path):
    words = [source, tmp_path / "out", "--sigma=1", "--limit=3"]
    assert smooth(*words).report["options"]["filter"].get("method") is None
    again = smooth(*words, "--method=fft", "--resume", expect=2)
    assert "made with other options" in again.stderr
    report = smooth(*words, "--method=fft", "--resume", "--overwrite").report
    assert report["options"]["filter"]["method"] == "fft"
    assert report["totals"]["done"] == 3
    kept = smooth(*words, "--method=fft", "--resume").report
    assert kept["totals"]["done"] == 0


def test_a_constant_that_is_not_finite_is_wrong_usage(source, tmp_path):
    words = ["--sigma=1", "--method=fft", "--boundary=constant", "--cval=nan"]
    refused = smooth(source, tmp_path / "out", *words, expect=2)
    assert "--method direct" in refused.stderr
    assert not (tmp_path / "out").exists()
