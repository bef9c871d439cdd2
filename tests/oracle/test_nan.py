"""--nan: compares the results of images with NaN and infinite voxels with the same sums in scipy, and checks
the count of those voxels."""

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import images
from program import HAS_RANKS, smooth
from test_resume import lines, resume

pytestmark = pytest.mark.timeout(120)

RANKS = 2 if HAS_RANKS else None
SIGMA = 1.3
BOUNDARIES = ("reflect", "constant", "nearest", "mirror", "wrap")


def with_holes(rng, shape, datatype):
    """Voxels of which one in nine is NaN or infinite, and a block of NaN that is larger than the kernel."""
    array = (rng.standard_normal(shape) * 100 + 300).astype(datatype)
    kinds = np.array([np.nan, np.inf, -np.inf], datatype)
    holes = rng.random(shape) < 1 / 9
    array[holes] = rng.choice(kinds, holes.sum())
    array[:13, :13, :13] = np.nan
    return array


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nan") / "in"
    rng = np.random.default_rng(23)
    arrays = {
        "float32.nii.gz": with_holes(rng, (19, 17, 18), "float32"),
        "float64.nii": with_holes(rng, (18, 19, 16), "float64"),
        "two_volumes.nii.gz": with_holes(rng, (17, 18, 16, 2), "float32"),
        "whole.nii.gz": (rng.standard_normal((9, 8, 7)) * 100).astype("float32"),
        "integer.nii.gz": images.random_array(rng, (9, 8, 7), "int16"),
    }
    for name, array in arrays.items():
        images.write(folder / name, array)
    scaled = with_holes(rng, (17, 16, 18), "float32")
    images.write(folder / "scaled.nii.gz", scaled, slope=2.5, inter=-7)
    return folder


def loaded(path):
    return np.asarray(nibabel.load(path).dataobj)


def expected(array, how, output, boundary, cval=0.0):
    """The definition: see `niimpi::filter::nonfinite::apply_with`."""
    volumes = [array] if array.ndim == 3 else [array[..., t] for t in range(array.shape[3])]
    finite = np.isfinite(array)

    def smoothed(a, type_, cval):
        return gaussian_filter(a, SIGMA, output=type_, mode=boundary, cval=cval)

    results = []
    for volume in volumes:
        mask = np.isfinite(volume)
        if how == "propagate" or finite.all():
            results.append(smoothed(volume, output, cval))
        elif how == "zero":
            results.append(smoothed(np.where(mask, volume, 0).astype(volume.dtype), output, cval))
        else:
            values = smoothed(np.where(mask, volume.astype("float64"), 0.0), "float64", cval)
            weights = smoothed(mask.astype("float64"), "float64", 1.0)
            with np.errstate(invalid="ignore", divide="ignore"):
                results.append(np.where(weights > 0, values / weights, np.nan).astype(output))
    return results[0] if array.ndim == 3 else np.stack(results, axis=-1)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize("how", ["propagate", "zero", "ignore"])
def test_the_result_is_the_definition(tmp_path, source, how, boundary):
    out = tmp_path / "out"
    options = [f"--sigma={SIGMA}", f"--nan={how}", f"--boundary={boundary}"]
    if boundary == "constant":
        options.append("--cval=55.5")
    finished = smooth(source, out, *options, ranks=RANKS, threads=2)
    total = 0
    for record in finished.report["images"]:
        name = Path(record["input"]).name
        array = loaded(source / name)
        result = loaded(out / name)
        # An image with a slope is computed in double and written as float32.
        output = "float32" if name == "scaled.nii.gz" else array.dtype
        wanted = expected(array, how, output, boundary, 55.5 if boundary == "constant" else 0.0)
        holes = int((~np.isfinite(array)).sum()) if array.dtype.kind == "f" else 0
        assert record["nonfinite_voxels"] == holes, name
        assert result.dtype == wanted.dtype, name
        np.testing.assert_array_equal(np.isnan(result), np.isnan(wanted), err_msg=name)
        same = (result == wanted) | np.isnan(wanted)
        assert same.all(), (
            f"{name}: {(~same).sum()} of {same.size} differ, by {np.nanmax(np.abs(result - wanted))}"
        )
        if how == "ignore" and holes:
            assert np.isnan(result).any() and np.isnan(result).sum() < holes, (
                "only where nothing finite is in reach"
            )
        if how == "zero":
            assert np.isfinite(result).all()
        total += holes
    told = f"4 images with {total} voxels that are NaN or infinite (--nan {how})"
    assert told in finished.stdout, finished
    assert finished.report["filter"]["nan"] == how
    recorded = {
        line["output"]: line.get("nonfinite_voxels", 0) for line in lines(out) if line["event"] == "end"
    }
    assert sum(recorded.values()) == total and recorded["whole.nii.gz"] == 0


def test_integers_are_rounded_once_and_nothing_becomes_zero(tmp_path, source):
    out = tmp_path / "out"
    smooth(source, out, f"--sigma={SIGMA}", "--nan=ignore", "--output-type=int16", ranks=RANKS)
    array = loaded(source / "float32.nii.gz")
    wanted = np.nan_to_num(np.rint(expected(array, "ignore", "float64", "reflect")))
    np.testing.assert_array_equal(loaded(out / "float32.nii.gz"), np.clip(wanted, -32768, 32767))


def test_another_choice_is_refused_when_resuming(tmp_path, source):
    out = tmp_path / "out"
    smooth(source, out, "--sigma=1", ranks=RANKS)
    assert resume(source, out, "--sigma=1", "--nan=propagate", ranks=RANKS) == {"kept": 6}
    options = ("--sigma=1", "--nan=zero", "--report-csv")
    smooth(source, out, *options, "--resume", ranks=RANKS, expect=2)
    counts = resume(source, out, *options, "--overwrite", ranks=RANKS)
    assert counts == {"options_changed": 6}
    with open(f"{out}.again.images.csv", newline="") as file:
        rows = {Path(row["input"]).name: int(row["nonfinite_voxels"]) for row in csv.DictReader(file)}
    assert rows["whole.nii.gz"] == rows["integer.nii.gz"] == 0 and rows["float32.nii.gz"] > 2000
