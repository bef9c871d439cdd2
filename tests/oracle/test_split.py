"""One image on several ranks: the bytes are those of one rank, and a fault leaves nothing half-written."""

import hashlib
import os
import signal
import time

import numpy as np
import pytest

import images
from filters import FILTERS
from program import ranks_alive, run, smooth, start

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(180)]

# Every two values of different columns occur together in a row.
PAIRWISE = [
    # ranks, threads, boundary, datatype, shape, ending
    (2, 1, "reflect", "int16", (31, 29, 23), ".nii"),
    (3, 2, "nearest", "float32", (12, 11, 10, 7), ".nii.gz"),
    (4, 1, "mirror", "uint8", (50, 40, 3), ".nii.gz"),
    (2, 2, "constant", "float64", (12, 11, 10, 2), ".nii"),
    (3, 1, "wrap", "int32", (9, 8, 7, 5), ".nii.gz"),
    (4, 2, "reflect", "float32", (150, 140, 41), ".nii.gz"),
]


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def shared_by(report):
    """The ranks that shared each image of a report."""
    return [sorted(sharer["rank"] for sharer in image.get("shared", [])) for image in report["images"]]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Two large images, one of them compressed."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(7)
    array = images.random_array(rng, (128, 128, 300), "float32")
    for name in ("a.nii", "b.nii.gz"):
        images.write(folder / name, array, affine=images.diagonal(2, 2, 2))
    return folder


@pytest.mark.parametrize("ranks, threads, boundary, datatype, shape, ending", PAIRWISE)
def test_the_bytes_are_those_of_one_rank(tmp_path, ranks, threads, boundary, datatype, shape, ending):
    rng = np.random.default_rng(len(shape) * ranks)
    folder = tmp_path / "in"
    for number in range(2):
        images.write(folder / f"{number}{ending}", images.random_array(rng, shape, datatype))
    options = ["--sigma=1.5", f"--boundary={boundary}"]
    smooth(folder, tmp_path / "one", *options, "--split=never", ranks=1)
    split = ["--split=always", "--name={stem}"]
    report = smooth(folder, tmp_path / "all", *options, *split, ranks=ranks, threads=threads).report
    assert all(len(shared) > 1 for shared in shared_by(report)), report["images"]
    for number in range(2):
        name = f"{number}{ending}"
        assert digest(tmp_path / "all" / name) == digest(tmp_path / "one" / name)


@pytest.mark.parametrize("filter", FILTERS, ids=lambda filter: filter.name)
def test_every_filter(tmp_path, filter):
    rng = np.random.default_rng(3)
    folder = tmp_path / "in"
    images.write(folder / "a.nii.gz", images.random_array(rng, (14, 13, 12, 3), "int16"))
    filter.run(folder, tmp_path / "one", "--split=never", ranks=1)
    report = filter.run(folder, tmp_path / "all", "--split=always", ranks=2, threads=2).report
    assert shared_by(report) == [[0, 1]]
    assert digest(tmp_path / "all" / "a.nii.gz") == digest(tmp_path / "one" / "a.nii.gz")


def test_fewer_large_images_than_ranks_are_shared_kept_and_verified(tmp_path, large):
    output = tmp_path / "out"
    report = smooth(large, output, "--sigma=1", ranks=4).report
    assert shared_by(report) == [[0, 1], [2, 3]]
    first = report["images"][0]
    for stage in ("read_s", "filter_s"):
        spent = sum(sharer[stage] for sharer in first["shared"])
        assert first[stage] == pytest.approx(spent, abs=1e-4)
    assert report["totals"]["done"] == 2 and first["nonfinite_voxels"] == 0
    smooth(large, tmp_path / "one", "--sigma=1", ranks=1)
    for name in ("a.nii", "b.nii.gz"):
        assert digest(output / name) == digest(tmp_path / "one" / name)
    assert run(["verify", str(output)]).code == 0
    resumed = smooth(large, output, "--sigma=1", "--resume", ranks=2).report
    assert resumed["resume"]["kept"] == 2
    (output / "a.nii").unlink()
    resumed = smooth(large, output, "--sigma=1", "--resume", "--strategy=dynamic", ranks=2).report
    assert resumed["resume"]["kept"] == 1 and shared_by(resumed)[0] == [0, 1]
    assert digest(output / "a.nii") == digest(tmp_path / "one" / "a.nii")


@pytest.mark.parametrize("strategy", ["size", "dynamic"])
def test_small_images_and_never_leave_each_image_to_one_rank(tmp_path, large, strategy):
    folder = tmp_path / "in"
    images.write(folder / "a.nii", np.zeros((9, 8, 7), "int16"))
    report = smooth(folder, tmp_path / "out", "--sigma=1", f"--strategy={strategy}", ranks=3).report
    assert shared_by(report) == [[]] and report["totals"]["done"] == 1
    never = ["--sigma=1", "--split=never", f"--strategy={strategy}"]
    report = smooth(large / "a.nii", tmp_path / "never", *never, ranks=2).report
    assert shared_by(report) == [[]]


def test_what_cannot_be_split_fails_with_the_reason_and_the_others_are_done(tmp_path):
    folder = tmp_path / "in"
    rng = np.random.default_rng(5)
    images.write_pair(folder / "a.hdr", images.random_array(rng, (9, 8, 7), "int16"))
    images.write(folder / "b.nii", images.random_array(rng, (9, 8, 7), "float32"))
    images.write(folder / "c.nii", images.random_array(rng, (9, 8, 7), "int16"))
    options = ["--sigma=1", "--split=always", "--nan=ignore"]
    finished = smooth(folder, tmp_path / "out", *options, ranks=2, expect=1)
    errors = [image["error"] for image in finished.report["images"]]
    assert "cannot be split over ranks: " in errors[0] and "pair of files" in errors[0]
    assert "have to be counted first" in errors[1] and "--split auto" in errors[1]
    assert errors[2] is None
    assert [path.name for path in images.results(tmp_path / "out") if path.is_file()] == ["c.nii"]


def test_damage_in_one_ranks_part_names_the_rank_and_leaves_nothing(tmp_path):
    folder = tmp_path / "in"
    rng = np.random.default_rng(6)
    array = images.random_array(rng, (128, 128, 120), "int16")
    for name in ("a.nii.gz", "b.nii.gz"):
        images.write(folder / name, array)
    damaged = bytearray((folder / "a.nii.gz").read_bytes())
    damaged[-6] ^= 1
    (folder / "a.nii.gz").write_bytes(damaged)
    finished = smooth(folder, tmp_path / "out", "--sigma=1", "--split=always", ranks=2, expect=1)
    error = finished.report["images"][0]["error"]
    assert "on rank 1 on " in error, error
    assert [path.name for path in images.results(tmp_path / "out") if path.is_file()] == ["b.nii.gz"]


def test_a_rank_killed_in_the_middle_then_resume(tmp_path, large):
    output = tmp_path / "out"
    args = ["smooth", f"{large}/./a.nii", "--output", str(output), "--sigma=1", "--threads=1", "--no-sync"]
    with start(args, ranks=2, env={"NIIMPI_TEST_FAULT": "slow@1:60000"}) as running:
        deadline = time.monotonic() + 60
        # The first rank has begun the file and waits for the second one's section.
        while not list(output.rglob("*.part")) and not list(output.rglob(".*a.nii*")):
            assert time.monotonic() < deadline, list(output.rglob("*"))
            time.sleep(0.05)
        os.kill(ranks_alive(running.mark)[1], signal.SIGKILL)
        assert running.wait(60).code not in (0, 1)
    assert not (output / "a.nii").exists()
    report = smooth(large / "a.nii", output, "--sigma=1", "--resume", ranks=2).report
    assert report["totals"]["done"] == 1 and shared_by(report) == [[0, 1]]
    assert [path.name for path in images.results(output) if path.is_file()] == ["a.nii"]
    smooth(large / "a.nii", tmp_path / "one", "--sigma=1", ranks=1)
    assert digest(output / "a.nii") == digest(tmp_path / "one" / "a.nii")
