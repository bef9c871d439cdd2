"""--mask, --outside and --nan keep: compares with the same sums in scipy (bit for bit) and with medians
sorted by numpy (by value), and with wb_command -roi. Also tests masks that are missing, do not fit or
change."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import images
from program import HAS_RANKS, run, smooth
from reference import BOUNDARIES, differing, outputs, rounded, stem, tally
from test_ranks import sums
from test_resume import lines, resume

pytestmark = [pytest.mark.timeout(120), pytest.mark.arithmetic]

SIGMA = (1.2, 0.0, 0.8)
SHAPES = [(9, 10, 11), (70, 5, 3), (1, 7, 5), (1, 1, 1), (12, 9), (17,), (5, 6, 4, 3)]
SIZE = (3, 2, 3)
MASK = "{dir}/{stem}_mask.nii.gz"


def mask_of(rng, shape):
    """A mask of about half of the voxels, in clusters, with values from -1 to 2."""
    values = gaussian_filter(rng.standard_normal(shape[:3]), 1.3)
    return np.where(values > 0, rng.choice([1, 2], shape[:3]), rng.choice([0, -1], shape[:3])).astype("int16")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Every datatype and shape, and images with an intensity scale. Their masks are below `masks`."""
    folder = tmp_path_factory.mktemp("mask")
    rng = np.random.default_rng(31)
    for datatype in images.DATATYPES:
        for number, shape in enumerate(SHAPES):
            array = images.random_array(rng, shape, datatype)
            images.write(folder / "in" / f"{datatype}_{number}.nii", array)
            images.write(folder / "masks" / f"{datatype}_{number}_mask.nii.gz", mask_of(rng, shape))
    for datatype in ("int16", "float32"):
        array = images.random_array(rng, SHAPES[0], datatype)
        images.write(folder / "in" / f"scaled_{datatype}.nii.gz", array, slope=-0.37, inter=5)
        images.write(folder / "masks" / f"scaled_{datatype}_mask.nii.gz", mask_of(rng, SHAPES[0]), order=">")
    return folder


def loaded(path):
    return np.asarray(nibabel.load(path).dataobj)


def is_scaled(path):
    image = nibabel.load(path)
    return image.dataobj.slope != 1 or image.dataobj.inter != 0


def volumes(array):
    return [array] if array.ndim <= 3 else [array[..., t] for t in range(array.shape[3])]


def smoothed(array, inside, boundary, leaves_out=False):
    """s(M·x) / s(M) of each volume."""

    def blur(values):
        sigma = SIGMA[: values.ndim]
        return gaussian_filter(values, sigma, output="float64", mode=boundary, cval=0.0)

    results = []
    for volume in volumes(array):
        counts = inside & np.isfinite(volume) if leaves_out else inside
        values = blur(np.where(counts, volume.astype("float64"), 0.0))
        with np.errstate(invalid="ignore", divide="ignore"):
            results.append(values / blur(counts.astype("float64")))
    return results[0] if array.ndim <= 3 else np.stack(results, axis=-1)


PADS = dict(zip(BOUNDARIES, ("symmetric", "edge", "reflect", "wrap", "constant"), strict=True))


def medians(array, inside, boundary, leaves_out=False):
    """The element n//2 of the sorted values that are in a window of SIZE and inside the mask."""
    results = []
    for volume in volumes(array):
        size = SIZE[: volume.ndim]
        pad = [(length // 2, length - length // 2 - 1) for length in size]
        counts = inside & np.isfinite(volume) if leaves_out else inside
        padded = np.pad(volume.astype("float64"), pad, mode=PADS[boundary])
        beside = np.pad(counts, pad, mode=PADS[boundary])
        result = np.full(volume.shape, np.nan)
        for place in np.ndindex(volume.shape):
            window = tuple(slice(start, start + length) for start, length in zip(place, size))
            values = np.sort(padded[window][beside[window]])
            if len(values):
                result[place] = values[len(values) // 2]
        results.append(result)
    return results[0] if array.ndim <= 3 else np.stack(results, axis=-1)


def stored(values, target):
    """Doubles converted to the voxel type; integers are rounded once."""
    target = np.dtype(target)
    with np.errstate(over="ignore"):
        return rounded(np.nan_to_num(values), target) if target.kind in "iu" else values.astype(target)


def expected(array, inside, filtered, outside, target):
    """The whole result."""
    inside = inside if array.ndim <= 3 else np.repeat(inside[..., None], array.shape[3], axis=-1)
    if outside == "keep":
        kept = array if array.dtype == target else stored(array.astype("float64"), target)
        return np.where(inside, stored(filtered, target), kept)
    return stored(np.where(inside, filtered, {"zero": 0.0, "nan": np.nan}[outside]), target)


def compare(folder, finished, filtered, outside, boundary, output_type="same"):
    """Compares every result of a run with the reference."""
    written = outputs(finished.report)
    paths = sorted((folder / "in").glob("*.nii*"))
    bad = []
    for path in paths:
        array = loaded(path)
        mask = folder / "masks" / f"{path.name.split('.')[0]}_mask.nii.gz"
        inside = loaded(mask) > 0
        target = ("float32" if is_scaled(path) else array.dtype) if output_type == "same" else output_type
        reference = expected(array, inside, filtered(array, inside, boundary), outside, np.dtype(target))
        result = loaded(written[stem(path)])
        assert result.dtype == reference.dtype and result.shape == reference.shape, path
        count = differing(np.asarray(result), reference)
        tally.add("masks", result.size, count)
        if count:
            bad.append(f"{path.name}: {count} of {result.size} voxels")
    assert paths and not bad, "\n".join(bad)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(
    ("outside", "output_type"),
    [("zero", "same"), ("keep", "same"), ("nan", "float64"), ("keep", "int32"), ("zero", "float32")],
)
def test_smoothing_inside(source, tmp_path, boundary, outside, output_type):
    words = ["--sigma", ",".join(map(str, SIGMA)), "--boundary", boundary, "--cval=7"]
    words += ["--mask", source / "masks" / MASK, "--outside", outside, "--output-type", output_type]
    finished = smooth(source / "in", tmp_path / "out", *words, threads=2)
    assert "values other than 0 and 1" in finished.stderr
    assert "cut to whole numbers" not in finished.stderr
    compare(source, finished, smoothed, outside, boundary, output_type)


@pytest.mark.parametrize("boundary", BOUNDARIES)
@pytest.mark.parametrize(("outside", "output_type"), [("zero", "same"), ("keep", "same"), ("nan", "float32")])
def test_median_inside(tmp_path, boundary, outside, output_type):
    # numpy mirrors axes of one voxel in another way.
    rng = np.random.default_rng(32)
    for datatype in ("uint8", "int16", "uint32", "int64", "uint64", "float32", "float64"):
        for number, shape in enumerate([(9, 10, 11), (30, 5, 3), (12, 9), (5, 6, 4, 3)]):
            array = images.random_array(rng, shape, datatype)
            images.write(tmp_path / "in" / f"{datatype}_{number}.nii", array)
            images.write(tmp_path / "masks" / f"{datatype}_{number}_mask.nii.gz", mask_of(rng, shape))
    words = ["--size", ",".join(map(str, SIZE)), "--boundary", boundary, "--cval=7"]
    words += ["--mask", tmp_path / "masks" / MASK, "--outside", outside, "--output-type", output_type]
    finished = smooth(tmp_path / "in", tmp_path / "out", *words, command="median", threads=2)
    compare(tmp_path, finished, medians, outside, boundary, output_type)


def with_holes(rng, shape, datatype):
    array = (rng.standard_normal(shape) * 100 + 300).astype(datatype)
    array[rng.random(shape) < 1 / 9] = np.nan
    array[rng.random(shape) < 1 / 30] = np.inf
    return array


@pytest.mark.parametrize("how", ["propagate", "zero", "ignore", "keep"])
@pytest.mark.parametrize("command", ["smooth", "median"])
def test_not_a_number_inside(tmp_path, command, how):
    rng = np.random.default_rng(33)
    inside = mask_of(rng, (13, 12, 11)) > 0
    array = with_holes(rng, (13, 12, 11), "float32")
    images.write(tmp_path / "in" / "a.nii.gz", array)
    images.write(tmp_path / "mask.nii", inside.astype("uint8"))
    widths = ["--sigma", ",".join(map(str, SIGMA))] if command == "smooth" else ["--size=3,2,3"]
    words = [*widths, "--mask", tmp_path / "mask.nii", "--outside=nan", "--nan", how]
    if command == "median" and how == "propagate":
        refused = smooth(tmp_path / "in", tmp_path / "out", *words, command=command, expect=1)
        assert "--nan ignore or keep" in refused.stderr
        return
    finished = smooth(tmp_path / "in", tmp_path / "out", *words, command=command, threads=2)
    assert "values other than 0 and 1" not in finished.stderr
    filtered = {"smooth": smoothed, "median": medians}[command]
    values = np.where(np.isfinite(array), array, np.float32(0)) if how == "zero" else array
    reference = filtered(values, inside, "reflect", leaves_out=how in ("ignore", "keep"))
    if how == "keep":
        reference = np.where(np.isfinite(array), reference, np.nan)
    reference = np.where(inside, reference, np.nan).astype("float32")
    assert differing(loaded(tmp_path / "out" / "a.nii.gz"), reference) == 0


def test_not_a_number_outside_has_no_effect(tmp_path):
    rng = np.random.default_rng(34)
    inside = mask_of(rng, (13, 12, 11)) > 0
    array = np.where(inside, rng.standard_normal((13, 12, 11)), np.nan).astype("float32")
    images.write(tmp_path / "in" / "a.nii.gz", array)
    images.write(tmp_path / "mask.nii", inside.astype("float64"))
    for command, width in (("smooth", "--sigma=1.3"), ("median", "--size=3")):
        output = tmp_path / command
        smooth(tmp_path / "in", output, width, "--mask", tmp_path / "mask.nii", command=command)
        assert np.isfinite(loaded(output / "a.nii.gz")).all()


def test_kept_without_a_mask(tmp_path):
    rng = np.random.default_rng(35)
    array = with_holes(rng, (13, 12, 11), "float32")
    images.write(tmp_path / "in" / "a.nii.gz", array)
    for command, width in (("smooth", "--sigma=1.3"), ("median", "--size=3")):
        results = {}
        for how in ("ignore", "keep"):
            output = tmp_path / f"{command}-{how}"
            smooth(tmp_path / "in", output, width, "--nan", how, command=command)
            results[how] = loaded(output / "a.nii.gz")
        reference = np.where(np.isfinite(array), results["ignore"], np.float32("nan"))
        assert differing(results["keep"], reference) == 0
        assert np.isfinite(results["ignore"]).sum() > np.isfinite(results["keep"]).sum()


@pytest.mark.parametrize("threads", [1, 2])
def test_nonzero(tmp_path, threads):
    rng = np.random.default_rng(36)
    for datatype in ("uint8", "int16", "float32"):
        for suffix, shape in ((".nii", (9, 8, 7)), (".nii.gz", (40, 41, 42)), (".nii.gz", (7, 6, 5, 3))):
            array = rng.integers(-3 if datatype != "uint8" else 0, 4, shape).astype(datatype)
            if datatype == "float32":
                array[rng.random(shape) < 0.1] = np.nan
            images.write(tmp_path / "in" / f"{datatype}_{len(shape)}_{shape[0]}{suffix}", array)
    words = ["--sigma", ",".join(map(str, SIGMA)), "--mask=nonzero"]
    smooth(tmp_path / "in", tmp_path / "out", *words, threads=threads)
    for path in sorted((tmp_path / "in").iterdir()):
        array = loaded(path)
        inside = (array != 0) & ~np.isnan(array)
        if array.ndim == 3:
            filtered = smoothed(array, inside, "reflect")
        else:
            each = [smoothed(array[..., t], inside[..., t], "reflect") for t in range(array.shape[3])]
            filtered = np.stack(each, axis=-1)
        reference = stored(np.where(inside, filtered, 0.0), array.dtype)
        assert differing(loaded(tmp_path / "out" / path.name), reference) == 0, path


def test_a_file_named_nonzero_and_a_mask_of_scaled_values(tmp_path):
    rng = np.random.default_rng(37)
    array = images.random_array(rng, (9, 8, 7), "int16")
    mask = rng.integers(0, 10, (9, 8, 7)).astype("int16")
    images.write(tmp_path / "in" / "a.nii", array)
    images.write(tmp_path / "mask.hdr.nii", mask, slope=-0.5, inter=2)
    # An image needs a suffix, so a file named `nonzero` is not an image.
    (tmp_path / "nonzero").write_bytes((tmp_path / "mask.hdr.nii").read_bytes())
    words = ["smooth", "in", "--output", "out", "--sigma", ",".join(map(str, SIGMA)), "--mask"]
    refused = run([*words, "./nonzero"], cwd=tmp_path)
    assert refused.code == 2 and "nonzero" in refused.stderr, refused
    assert run([*words, "mask.hdr.nii"], cwd=tmp_path).code == 0
    inside = mask * -0.5 + 2 > 0
    reference = stored(np.where(inside, smoothed(array, inside, "reflect"), 0.0), "int16")
    assert differing(loaded(tmp_path / "out" / "a.nii"), reference) == 0


@pytest.fixture
def study(tmp_path):
    """Three images in folders, with an affine, and a mask for each in a parallel tree."""
    rng = np.random.default_rng(38)
    for name in ("s1/a", "s2/b", "s2/c"):
        array = images.random_array(rng, (9, 8, 7), "float32")
        images.write(tmp_path / "in" / f"{name}.nii.gz", array, affine=images.diagonal(2, 2, 2))
        mask = (mask_of(rng, (9, 8, 7)) > 0).astype("uint8")
        images.write(tmp_path / "masks" / f"{name}_mask.nii.gz", mask, affine=images.diagonal(2, 2, 2))
    return tmp_path


def one_fails(study, *words, said, count=1):
    finished = smooth(study / "in", study / "out", "--sigma=1", *words, expect=1)
    failed = [row for row in finished.report["images"] if row["status"] == "failed"]
    assert len(failed) == count, finished
    for text in said:
        assert text in failed[0]["error"], failed[0]["error"]
    dry = smooth(study / "in", study / "dry", "--sigma=1", *words, "--dry-run")
    assert "will fail" in dry.stdout and said[0] in dry.stdout, dry


def test_a_missing_mask_fails_its_image(study):
    (study / "masks" / "s2" / "b_mask.nii.gz").unlink()
    one_fails(study, "--mask", study / "masks" / MASK, said=["b_mask.nii.gz", "b.nii.gz", "no such file"])


def test_a_mask_of_another_shape_fails_its_image(study):
    path = study / "masks" / "s1" / "a_mask.nii.gz"
    images.write(path, np.ones((9, 8, 6), "uint8"), affine=images.diagonal(2, 2, 2))
    one_fails(study, "--mask", study / "masks" / MASK, said=["a_mask.nii.gz has 9×8×6", "9×8×7"])


@pytest.mark.parametrize(("shift", "fits"), [(0.0019, True), (0.0021, False)])
def test_a_mask_at_another_place_fails_its_image(study, shift, fits):
    path = study / "masks" / "s1" / "a_mask.nii.gz"
    affine = images.diagonal(2, 2, 2)
    affine[1, 3] += shift
    images.write(path, np.ones((9, 8, 7), "uint8"), affine=affine)
    if fits:
        smooth(study / "in", study / "out", "--sigma=1", "--mask", study / "masks" / MASK)
    else:
        one_fails(study, "--mask", study / "masks" / MASK, said=["a_mask.nii.gz", "0.0010 voxels", "affine"])


def test_qform_and_sform_of_one_place_agree(study):
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -3], [0, 0, 2.5, 7], [0, 0, 0, 1]])
    mask = nibabel.Nifti1Image(np.ones((9, 8, 7), "uint8"), None)
    mask.header.set_qform(affine, code=1)
    mask.header.set_sform(None, code=0)
    nibabel.save(mask, study / "mask.nii")
    assert np.allclose(nibabel.load(study / "mask.nii").affine, affine, atol=1e-6)
    images.write(study / "one" / "a.nii", np.ones((9, 8, 7), "float32"), affine=affine)
    smooth(study / "one", study / "out", "--sigma=1", "--mask", study / "mask.nii")
    images.write(study / "other" / "a.nii", np.ones((9, 8, 7), "float32"), affine=images.diagonal(2, 2, 2))
    refused = smooth(study / "other", study / "none", "--sigma=1", "--mask", study / "mask.nii", expect=2)
    assert "no image has a mask" in refused.stderr and not (study / "none").exists()


def refused_at_start(study, *words, said):
    output = study / "refused"
    finished = run(["smooth", str(study / "in"), "--output", str(output), "--sigma=1", *map(str, words)])
    assert finished.code == 2 and said in finished.stderr, finished
    assert not output.exists()


def test_what_no_image_can_use_is_refused_before_anything_is_written(study):
    refused_at_start(study, "--mask", study / "no.nii", said="no.nii")
    refused_at_start(study, "--mask", study / "masks" / "{dir}/{stem}_no.nii", said="no image has a mask")
    images.write(study / "small.nii", np.ones((9, 8, 6), "uint8"))
    refused_at_start(study, "--mask", study / "small.nii", said="no image has a mask")
    refused_at_start(study, "--mask", "{name}.nii", said="{stem}, {index} and {dir}")
    words = ["--mask=nonzero", "--outside=nan", "--output-type=int16"]
    refused_at_start(study, *words, said="int16 has no NaN")
    refused_at_start(study, "--outside=keep", said="--mask")


def test_an_integer_result_has_no_nan(tmp_path):
    images.series(tmp_path / "in", 1)
    words = ["--sigma=1", "--mask=nonzero", "--outside=nan"]
    finished = smooth(tmp_path / "in", tmp_path / "out", *words, expect=1)
    assert "--output-type float32" in finished.stderr


def test_a_changed_mask_counts_as_a_changed_input(study):
    words = ["--sigma=1", "--mask", study / "masks" / MASK]
    finished = smooth(study / "in", study / "out", *words)
    assert finished.report["options"]["mask"] == "file" and finished.report["options"]["outside"] == "zero"
    assert finished.report["filter"]["mask"].endswith(MASK)
    ends = [line for line in lines(study / "out") if line["event"] == "end"]
    recorded = {line["files_in"][1]["path"] for line in ends}
    assert recorded == {str(path) for path in (study / "masks").rglob("*.nii.gz")}
    assert resume(study / "in", study / "out", *words) == {"kept": 3}
    mask = study / "masks" / "s2" / "c_mask.nii.gz"
    os.utime(mask, ns=(1, 1))
    assert resume(study / "in", study / "out", *words) == {"kept": 3}
    before = loaded(study / "out" / "s2" / "c.nii.gz")
    images.write(mask, 1 - loaded(mask), affine=images.diagonal(2, 2, 2))
    assert resume(study / "in", study / "out", *words) == {"kept": 2, "input_changed": 1}
    assert (loaded(study / "out" / "s2" / "c.nii.gz") != before).any()
    # Masks that only moved are unchanged.
    (study / "masks").rename(study / "moved")
    words[-1] = study / "moved" / MASK
    assert resume(study / "in", study / "out", *words) == {"kept": 3}
    for other in (["--mask=nonzero"], [*words[1:], "--outside=keep"], []):
        command = ["smooth", study / "in", "--output", study / "out", "--sigma=1", *other, "--resume"]
        refused = run([str(word) for word in command])
        assert refused.code == 2 and "made with other options" in refused.stderr, refused


@pytest.mark.skipif(shutil.which("wb_command") is None, reason="wb_command is not installed")
def test_the_numbers_of_workbench_inside_a_region(tmp_path):
    """wb_command -roi leaves out what is beyond the edge, as --boundary constant does with a mask. It
    computes in single precision. Both kernels have the same radius for these sigmas."""
    rng = np.random.default_rng(41)
    bound = 1e-6
    cases = [((24, 21, 18), 1.4), ((40, 7, 9), 0.8), ((12, 30, 11), 2.1)]
    for number, (shape, sigma_vox) in enumerate(cases):
        array = (rng.standard_normal(shape) * 100).astype("float32")
        folder = tmp_path / str(number)
        image = images.write(folder / "in" / "a.nii", array, affine=images.diagonal(2, 2, 2))
        mask = (mask_of(rng, shape) > 0).astype("uint8")
        mask = images.write(folder / "mask.nii", mask, affine=images.diagonal(2, 2, 2))
        result = folder / "wb.nii"
        words = ["wb_command", "-volume-smoothing", image, str(2 * sigma_vox), result, "-roi", mask]
        subprocess.run(words, check=True, timeout=60)
        words = [f"--sigma={sigma_vox}", "--truncate=3", "--boundary=constant", f"--mask={mask}"]
        smooth(image, folder / "out", *words)
        expected = loaded(result).reshape(shape)
        off = np.abs(loaded(folder / "out" / "a.nii") - expected).max() / np.abs(expected).max()
        assert expected.any() and off < bound, off


def test_masks_named_by_the_entities_of_bids(tmp_path):
    """The masks have other names than the images: without run, and with another desc."""
    rng = np.random.default_rng(39)
    for subject in ("01", "02"):
        folder = tmp_path / "in" / f"sub-{subject}" / "func"
        mask = (mask_of(rng, (9, 8, 7)) > 0).astype("uint8")
        images.write(folder / f"sub-{subject}_task-rest_space-T1w_desc-brain_mask.nii.gz", mask)
        for run_number in (1, 2):
            array = images.random_array(rng, (9, 8, 7, 2), "float32")
            name = f"sub-{subject}_task-rest_run-{run_number}_space-T1w_desc-preproc_bold"
            path = images.write(folder / f"{name}.nii.gz", array)
            copied = tmp_path / "masks" / path.relative_to(tmp_path / "in")
            images.write(copied.with_name(f"{name}_mask.nii.gz"), mask)
    words = ["--sigma=1", "--include=*_bold.nii.gz", "--mask"]
    template = "{dir}/sub-{sub}_task-{task}_space-{space}_desc-brain_mask"
    smooth("in", tmp_path / "out", *words, f"in/{template}", cwd=tmp_path)
    smooth("in", tmp_path / "expected", *words, f"masks/{MASK}", cwd=tmp_path)
    assert len(sums(tmp_path / "out")) == 4 and sums(tmp_path / "out") == sums(tmp_path / "expected")
    refused = smooth("in", "no", *words, f"in/{template}_{{ses}}", cwd=tmp_path, expect=2)
    assert "run-1_space-T1w_desc-preproc_bold.nii.gz: the name has no entity ses" in refused.stderr, refused
    refused = smooth("in", "no", *words, "in/{dir}/{subject}.nii", cwd=tmp_path, expect=2)
    assert "entities of BIDS names such as {sub}" in refused.stderr, refused
    assert not (tmp_path / "no").exists()


def test_memory_counts_mask_and_weights(tmp_path):
    images.write(tmp_path / "in" / "a.nii", np.zeros((128, 128, 64), "float32"))
    images.write(tmp_path / "mask.nii", np.ones((128, 128, 64), "float64"))

    def memory_mib(*words):
        dry = smooth("in", "out", "--sigma=1", *words, "--dry-run", cwd=tmp_path)
        row = next(line for line in dry.stdout.splitlines() if "in/a.nii" in line)
        return float(row.split()[-2])

    plain, masked = memory_mib(), memory_mib("--mask=mask.nii")
    voxels_mib = 128 * 128 * 64 / 2**20
    assert masked - plain >= 17 * voxels_mib
    assert masked - plain < 23 * voxels_mib


@pytest.mark.ranks
@pytest.mark.parametrize("command", ["smooth", "median"])
def test_bytes_do_not_depend_on_ranks_or_threads(source, tmp_path, command):
    width = "--sigma=1.3" if command == "smooth" else "--size=3"
    words = [width, "--boundary=wrap", "--mask", source / "masks" / MASK, "--outside=keep"]
    smooth(source / "in", tmp_path / "base", *words, command=command)
    expected = sums(tmp_path / "base")
    for ranks in (1, 2, 3, 4) if HAS_RANKS else (None,):
        for threads in (1, 2, 3):
            output = tmp_path / f"out_{ranks}_{threads}"
            smooth(source / "in", output, *words, command=command, ranks=ranks, threads=threads)
            assert sums(output) == expected, (ranks, threads)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("command", ["smooth", "median"])
def test_one_mask_for_images_of_several_slabs(tmp_path, command, threads):
    rng = np.random.default_rng(39)
    inside = mask_of(rng, (61, 73, 61)) > 0
    images.write(tmp_path / "mask.nii.gz", inside.astype("uint8"))
    for datatype in ("int16", "float32"):
        images.write(tmp_path / "in" / f"{datatype}.nii.gz", images.random_array(rng, (61, 73, 61), datatype))
    array = images.random_array(rng, (61, 73, 61, 2), "int16")
    images.write(tmp_path / "in" / "series.nii.gz", array)
    width = ["--sigma", ",".join(map(str, SIGMA))] if command == "smooth" else ["--size=1,1,3"]
    words = [*width, "--mask", tmp_path / "mask.nii.gz"]
    smooth(tmp_path / "in", tmp_path / "out", *words, command=command, threads=threads)
    for path in sorted((tmp_path / "in").iterdir()):
        array = loaded(path)
        if command == "smooth":
            filtered = smoothed(array, inside, "reflect")
            reference = expected(array, inside, filtered, "zero", array.dtype)
            assert differing(loaded(tmp_path / "out" / path.name), reference) == 0, path
        else:
            result = loaded(tmp_path / "out" / path.name)
            each = result if array.ndim == 3 else result[..., 1]
            own = array if array.ndim == 3 else array[..., 1]
            below = np.concatenate([own[:, :, :1], own[:, :, :-1]], axis=2).astype("float64")
            above = np.concatenate([own[:, :, 1:], own[:, :, -1:]], axis=2).astype("float64")
            within = np.concatenate([inside[:, :, :1], inside[:, :, :-1]], axis=2)
            beyond = np.concatenate([inside[:, :, 1:], inside[:, :, -1:]], axis=2)
            far = np.stack([np.where(within, below, np.inf), own, np.where(beyond, above, np.inf)])
            count = 1 + within.astype(int) + beyond
            wanted = np.take_along_axis(np.sort(far, axis=0), (count // 2)[None], axis=0)[0]
            assert (each == np.where(inside, wanted, 0)).all(), path


NIIMATH = Path(sys.executable).with_name("niimath")


@pytest.mark.skipif(not NIIMATH.exists(), reason="niimath is not installed")
@pytest.mark.parametrize("sigma_mm", [1.5, 2.5])
def test_the_idiom_of_fsl(tmp_path, sigma_mm):
    """niimath computes in single precision and cuts its kernel off at 6 sigma."""
    rng = np.random.default_rng(40)
    affine = images.diagonal(2, 2, 2)
    array = (rng.standard_normal((30, 31, 29)) * 100 + 300).astype("float32")
    inside = mask_of(rng, array.shape) > 0
    image = images.write(tmp_path / "in" / "a.nii", array, affine=affine, zooms=(2, 2, 2))
    mask = images.write(tmp_path / "mask.nii", inside.astype("uint8"), affine=affine, zooms=(2, 2, 2))
    blur = ["-s", sigma_mm]
    for words in (
        [mask, *blur, "weights.nii.gz"],
        [image, "-mas", mask, *blur, "-div", "weights.nii.gz", "-mas", mask, "theirs.nii.gz"],
    ):
        subprocess.run([NIIMATH, *map(str, words)], cwd=tmp_path, check=True, timeout=60)
    words = ["--sigma", sigma_mm / 2, "--truncate=6", "--boundary=constant", "--mask", mask]
    smooth(tmp_path / "in", tmp_path / "out", *words)
    difference = np.abs(loaded(tmp_path / "out" / "a.nii") - loaded(tmp_path / "theirs.nii.gz"))
    assert difference.max() <= 1e-6 * array.max()


def test_the_report_describes_the_mask(tmp_path):
    images.series(tmp_path / "in", 2)
    finished = smooth(tmp_path / "in", tmp_path / "out", "--sigma=1", "--mask=nonzero", "--outside=keep")
    described = json.loads(finished.report_path.read_text())["filter"]
    assert (described["mask"], described["outside"]) == ("nonzero", "keep")
    plain = smooth(tmp_path / "in", tmp_path / "plain", "--sigma=1")
    assert "mask" not in plain.report["filter"] and "mask" not in plain.report["options"]
