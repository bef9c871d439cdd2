"""Warnings of a run: one line per kind, with a count, and the kinds of each image in the report."""

import re

import numpy as np
import pytest

import images
from program import smooth

RNG = np.random.default_rng(29)


def kinds(finished):
    records = finished.report["images"]
    return [[warning["kind"] for warning in record.get("warnings", [])] for record in records]


def image(path, zooms=(2, 2, 2), units=2, dtype="float32"):
    array = images.random_array(RNG, (40, 38, 30), dtype)
    header = images.header_for(array, zooms=zooms)
    header["xyzt_units"] = units
    return images.write(path, array, header)


@pytest.mark.parametrize(
    ["zooms", "units", "expected", "words"],
    [
        ((20, 20, 20), 3, ["unit", "beyond_axis"], "micrometre.*0.02×0.02×0.02 mm and sigma is 127.398"),
        ((2, 2, 2), 1, ["unit", "no_effect"], "metre.*2000×2000×2000 mm and sigma is 0.0013"),
        ((0.02, 0.02, 0.02), 0, ["beyond_axis"], "sigma is 127.* voxels along x, where the image has 40"),
        ((0, 0, 0), 2, [], ""),
        ((2, 2, 2), 2, [], ""),
    ],
)
def test_absurd_voxel_sizes(tmp_path, zooms, units, expected, words):
    """A width in mm gives a warning. A width in voxels does not depend on the voxel size."""
    path = image(tmp_path / "in" / "a.nii", zooms, units)
    finished = smooth(path, tmp_path / "out", "--fwhm=6")
    assert sorted(set(kinds(finished)[0])) == sorted(expected)
    assert re.search(words, finished.stderr.replace("\n", " ")), finished
    assert kinds(smooth(path, tmp_path / "sigma", "--sigma=1")) == [[]]


def label_map(shape=(40, 38, 30)):
    """Ball-shaped labels."""
    x, y, z = np.indices(shape)
    labels = np.zeros(shape, "int16")
    for number, centre in enumerate([(10, 10, 10), (28, 20, 15), (15, 28, 20)]):
        labels[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < 64] = 7 * number + 2
    return labels


@pytest.mark.parametrize("threads", [1, 4])
def test_masks_and_label_maps(tmp_path, threads):
    """Empty results and labels that do not exist give one line each, but none with float32."""
    roi = np.zeros((40, 38, 30), "uint8")
    roi[20, 20, 15] = 1
    for number in range(3):
        images.write(tmp_path / "in" / f"a_roi_{number}.nii.gz", roi)
    labels = label_map()
    images.write(tmp_path / "in" / "b_labels.nii.gz", labels)
    images.write(tmp_path / "in" / "c_parcels.nii", (5 * labels).astype("uint8"))
    images.write(tmp_path / "in" / "d_image.nii.gz", images.random_array(RNG, roi.shape, "int16"))
    images.write(tmp_path / "in" / "e_empty.nii.gz", np.zeros_like(roi))
    header = images.header_for(roi, slope=2.0)
    images.write(tmp_path / "in" / "f_scaled.nii.gz", roi, header)
    # With more threads than images, several threads share each image.
    options = ["--sigma=2.5", "--boundary=constant"]
    finished = smooth(tmp_path / "in", tmp_path / "out", *options, threads=8 * threads)
    assert kinds(finished) == [*[["empty_result"]] * 3, ["labels"], ["labels"], [], [], []], finished
    lines = [line for line in finished.stderr.splitlines() if "--output-type float32" in line]
    assert len(lines) == 3, finished
    assert any("3 images, first" in line and "a_roi_0.nii.gz" in line for line in lines)
    assert any("2 images, first" in line and "b_labels.nii.gz" in line for line in lines)
    assert any("7 integer images were" in line and "--round nearest" in line for line in lines)
    finished = smooth(tmp_path / "in", tmp_path / "float", *options, "--output-type=float32")
    assert kinds(finished) == [[]] * 8 and "float32" not in finished.stderr
    finished = smooth(tmp_path / "in", tmp_path / "nearest", *options, "--round=nearest")
    assert "cut to whole numbers" not in finished.stderr
