"""One image on several ranks: the bytes are those of one rank, and a fault leaves nothing half-written."""

import errno
import hashlib
import json
import os
import signal
import time

import numpy as np
import pytest

import images
from faulty import faulty  # noqa: F401
from filters import FILTERS, Filter
from program import MPI, ranks_alive, run, smooth, start
from test_agreement import arguments, ranks_of

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(120)]

BOUNDARIES = ("reflect", "nearest", "mirror", "constant", "wrap")
# Sigma 1.5 reaches over 6 slices, more than a slab of most of these images has.
SMOOTH = [Filter(name, "smooth", ("--sigma=1.5", f"--boundary={name}"), ()) for name in BOUNDARIES]
MEDIAN = [Filter("median-wrap", "median", ("--size=3", "--boundary=wrap"), ())]
ALL = SMOOTH + MEDIAN + list(FILTERS[1:])
# Each number of ranks occurs with each number of threads; NIIMPI_TEST_ALL_RANKS runs them all.
RANKS = [(2, 2), (3, 1), (4, 2), (8, 1), (2, 1), (3, 2), (4, 1), (8, 2)]
CASES = [(one, *RANKS[number % len(RANKS)]) for number, one in enumerate(ALL)]
if os.environ.get("NIIMPI_TEST_ALL_RANKS"):
    CASES = [(one, *ranks) for one in ALL for ranks in RANKS]

# Name: datatype and shape. Some have fewer slices or volumes than ranks.
SHAPES = {
    "a.nii": ("int16", (13, 12, 23)),
    "b.nii.gz": ("float32", (14, 13, 21)),
    "c.nii.gz": ("uint8", (50, 40, 11)),
    "d.nii": ("int32", (9, 8, 7, 5)),
    "e.nii.gz": ("float64", (12, 11, 10, 2)),
    "f.nii": ("int16", (20, 18, 3)),
    "g.nii": ("float32", (50, 44, 30)),
}
VOLUMES = {name for name, (_, shape) in SHAPES.items() if len(shape) == 3}


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def shared_by(report):
    """The ranks that shared each image of a report."""
    return [sorted(sharer["rank"] for sharer in image.get("shared", [])) for image in report["images"]]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Small images of many shapes and types."""
    folder = tmp_path_factory.mktemp("odd")
    for number, (name, (datatype, shape)) in enumerate(SHAPES.items()):
        rng = np.random.default_rng(number)
        array = images.random_array(rng, shape, datatype)
        images.write(folder / name, array, affine=images.diagonal(2, 2, 2))
    return folder


@pytest.fixture(scope="module")
def expected(tmp_path_factory, odd):
    """The results of one rank, by filter."""
    made = {}

    def of(filter):
        if filter.name not in made:
            made[filter.name] = tmp_path_factory.mktemp("one") / filter.name
            filter.run(odd, made[filter.name], "--split=never")
        return made[filter.name]

    return of


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Two large images, one of them compressed."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(7)
    array = images.random_array(rng, (128, 128, 300), "float32")
    for name in ("a.nii", "b.nii.gz"):
        images.write(folder / name, array, affine=images.diagonal(2, 2, 2))
    return folder


def not_split(filter):
    """The images that cannot be split: volumes of a filter that needs all slices, or that are thin for it."""
    if filter.name in ("wrap", "fft"):
        return VOLUMES
    return {"f.nii"} if filter.command == "denoise" else set()


@pytest.mark.parametrize("filter, ranks, threads", CASES, ids=lambda value: getattr(value, "name", value))
def test_the_bytes_are_those_of_one_rank(tmp_path, odd, expected, filter, ranks, threads):
    whole = not_split(filter)
    output = tmp_path / "out"
    code = int(bool(whole))
    report = filter.run(odd, output, "--split=always", ranks=ranks, threads=threads, expect=code).report
    for image, shared in zip(report["images"], shared_by(report), strict=True):
        name = image["input"].rpartition("/")[2]
        if name in whole:
            assert image["status"] == "failed" and not (output / name).exists()
            assert "cannot be split over ranks: " in image["error"]
        else:
            assert len(shared) > 1, image
            assert digest(output / name) == digest(expected(filter) / name), name


def median(*words, **options):
    """Takes long enough for ranks to share it."""
    return smooth(*words, "--size=5", command="median", **options)


def test_fewer_large_images_than_ranks_are_shared_kept_and_verified(tmp_path, large):
    output = tmp_path / "out"
    report = median(large, output, ranks=4).report
    assert shared_by(report) == [[0, 1], [2, 3]]
    first = report["images"][0]
    for stage in ("read_s", "filter_s"):
        spent = sum(sharer[stage] for sharer in first["shared"])
        assert first[stage] == pytest.approx(spent, abs=1e-4)
    assert report["totals"]["done"] == 2 and first["nonfinite_voxels"] == 0
    median(large, tmp_path / "one", ranks=1)
    for name in ("a.nii", "b.nii.gz"):
        assert digest(output / name) == digest(tmp_path / "one" / name)
    assert run(["verify", str(output)]).code == 0
    resumed = median(large, output, "--resume", ranks=2).report
    assert resumed["resume"]["kept"] == 2
    (output / "a.nii").unlink()
    resumed = median(large, output, "--resume", "--strategy=dynamic", ranks=2).report
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


def test_a_refused_voxel_fails_as_on_one_rank(tmp_path):
    """The first rank has no such voxel in its section."""
    array = np.zeros((9, 8, 20), "float32")
    array[2, 3, 17] = np.inf
    images.write(tmp_path / "in" / "a.nii", array)
    errors = []
    for split, ranks in (("never", None), ("always", 2)):
        words = ["--size=3", f"--split={split}"]
        finished = smooth(tmp_path / "in", tmp_path / split, *words, command="median", ranks=ranks, expect=1)
        errors.append(finished.report["images"][0]["error"])
    assert "NaN" in errors[0] and errors[1].startswith(errors[0] + " (on rank 1 on "), errors


def test_damage_in_one_ranks_part_names_the_rank_and_leaves_nothing(tmp_path):
    folder = tmp_path / "in"
    rng = np.random.default_rng(6)
    array = images.random_array(rng, (128, 128, 120), "int16")
    for name in ("a.nii.gz", "b.nii.gz"):
        images.write(folder / name, array)
    (folder / "a.nii.gz").write_bytes((folder / "b.nii.gz").read_bytes()[:-1000])
    finished = smooth(folder, tmp_path / "out", "--sigma=1", "--split=always", ranks=2, expect=1)
    error = finished.report["images"][0]["error"]
    assert "on rank 1 on " in error, error
    assert [path.name for path in images.results(tmp_path / "out") if path.is_file()] == ["b.nii.gz"]


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """Uncompressed images of many blocks of 64 KiB, and their results from one rank."""
    folder = tmp_path_factory.mktemp("blocks")
    rng = np.random.default_rng(9)
    for name, datatype, shape, order, extensions in (
        ("a.nii", "float32", (91, 83, 61), "<", b""),
        ("b.nii", "int16", (61, 53, 22, 7), ">", b""),
        ("c.nii", "float64", (64, 63, 40), "<", images.extension(6, b"x" * 1001)),
    ):
        array = images.random_array(rng, shape, datatype)
        images.write(folder / "in" / name, array, images.header_for(array, order), extensions)
    smooth(folder / "in", folder / "one", "--sigma=1")
    return folder


def same_as_one_rank(blocks, output):
    assert not list(output.rglob("*.part"))
    found = {path.name: digest(path) for path in images.results(output) if path.is_file()}
    return found == {path.name: digest(path) for path in images.results(blocks / "one") if path.is_file()}


@pytest.mark.parametrize("ranks, threads", [(2, 1), (3, 2), (5, 1)])
@pytest.mark.parametrize("fault", ["none@0:0", "apart@1:0"])
@pytest.mark.parametrize("sync", [False, True])
def test_ranks_write_one_file(tmp_path, blocks, ranks, threads, fault, sync):
    """Each rank writes its own part, or sends it if a rank does not find the file."""
    output = tmp_path / "out"
    options = ["--sigma=1", "--split=always", "-v"]
    env = {"NIIMPI_TEST_FAULT": fault}
    finished = smooth(blocks / "in", output, *options, ranks=ranks, threads=threads, env=env, sync=sync)
    assert shared_by(finished.report) == [list(range(ranks))] * 3
    assert same_as_one_rank(blocks, output)
    everywhere = "are written in place" in finished.stderr
    assert everywhere == (fault == "none@0:0"), finished.stderr
    assert run(["verify", str(output)]).code == 0


@pytest.mark.skipif(MPI == "mpich", reason="MPICH itself does not start with such a limit")
def test_a_write_that_fails_on_another_rank_fails_the_image(tmp_path, blocks):
    """Rank 1 may not write beyond 400,000 bytes of a file."""
    words = arguments(tmp_path, "--sigma=1", "--split=always", "--report", tmp_path / "report.json")
    words[1] = f"{blocks / 'in'}/./a.nii"
    command = ranks_of(words, (("prlimit", "--fsize=400000"), words))
    finished = run(command, ranks=1, report_path=tmp_path / "report.json")
    assert finished.code == 1, finished
    error = finished.report["images"][0]["error"]
    assert "a.nii: " in error and "(os error 27)" in error and "(on rank 1 on " in error, error
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".nii", ".part")]
    resumed = smooth(blocks / "in", tmp_path / "out", "--sigma=1", "--resume", ranks=2).report
    assert resumed["totals"]["done"] == 3 and same_as_one_rank(blocks, tmp_path / "out")


@pytest.mark.parametrize("damage", ["checksum", "cut", "garbage"])
def test_a_damaged_file_fails_as_on_one_rank(tmp_path, damage):
    """The file is inflated once, and its end is verified before the result has a name."""
    rng = np.random.default_rng(6)
    path = tmp_path / "in/a.nii.gz"
    images.write(path, images.random_array(rng, (128, 128, 120), "int16"))
    whole = path.read_bytes()
    wrong = whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:]
    path.write_bytes({"checksum": wrong, "cut": whole[: len(whole) // 2], "garbage": whole + b"abc"}[damage])
    alone = smooth(path, tmp_path / "one", "--sigma=1", "--split=never", expect=1).report["images"][0]
    for ranks in (2, 3):
        out = tmp_path / f"out{ranks}"
        shared = smooth(path, out, "--sigma=1", "--split=always", ranks=ranks, expect=1).report["images"][0]
        # A sum that does not match may be the fault of a disk, so one rank reads the file once more.
        again = damage == "checksum"
        assert shared["retries"] == alone["retries"] == int(again)
        suffix = "" if again else f" (on rank {ranks - 1} on "
        assert shared["error"].startswith(alone["error"] + suffix), (shared, alone)
        assert not [path for path in images.results(out) if path.is_file()]


def test_a_read_error_that_passes_is_no_failure(tmp_path, faulty):
    """Each process meets it once, after the header, in its section."""
    path = tmp_path / "in/a.nii"
    images.write(path, images.random_array(np.random.default_rng(8), (128, 128, 160), "int16"))
    env = faulty(f"read:{errno.EIO}x1:1100000:a.nii")
    out = tmp_path / "out"
    finished = smooth(path, out, "--sigma=1", "--split=always", ranks=2, env=env)
    row = finished.report["images"][0]
    assert (row["status"], row["retries"]) == ("done", 1), row
    assert "1 read again after an error" in finished.stdout
    smooth(path, tmp_path / "one", "--sigma=1")
    assert digest(out / "a.nii") == digest(tmp_path / "one/a.nii")


def test_masks_and_label_maps_have_the_warnings_of_whole_images(tmp_path):
    labels = np.repeat(np.arange(600, dtype="int16"), 20).reshape(40, 30, 10, order="F")
    point = np.zeros((9, 8, 20), "int16")
    point[4, 4, 17] = 1
    rng = np.random.default_rng(4)
    images.write(tmp_path / "in/labels.nii.gz", labels)
    images.write(tmp_path / "in/noise.nii", images.random_array(rng, (20, 20, 20), "int16"))
    images.write(tmp_path / "in/point.nii", point)
    kinds = []
    for split, ranks in (("never", 1), ("always", 3)):
        words = ["--sigma=1", f"--split={split}"]
        report = smooth(tmp_path / "in", tmp_path / split, *words, ranks=ranks).report
        kinds.append([[warning["kind"] for warning in row.get("warnings", [])] for row in report["images"]])
    assert kinds[0] == [["labels"], [], ["empty_result"]] and kinds[1] == kinds[0], kinds


def test_an_image_that_is_measured_stays_whole_unless_ranks_have_to_share_it(tmp_path, large):
    words = ["--sigma=1", "--qc", "-v"]
    finished = smooth(large / "a.nii", tmp_path / "auto", *words, ranks=2)
    row = finished.report["images"][0]
    assert not row.get("shared") and row["quality"]["after"]["sd"] > 0
    assert "is not split over ranks: --qc measures whole images" in finished.stderr
    row = smooth(large / "a.nii", tmp_path / "always", *words, "--split=always", ranks=2).report["images"][0]
    assert row["shared"] and "quality" not in row
    assert [warning["kind"] for warning in row["warnings"]] == ["unmeasured"]


def test_timelines_have_all_ranks_that_shared_an_image(tmp_path, large):
    smooth(large / "b.nii.gz", tmp_path / "out", "--sigma=1", "--split=always", ranks=3)
    shown = run(["report", "show", f"{tmp_path}/out.report.json", "--format", "chrome-trace"])
    events = json.loads(shown.stdout)["traceEvents"]
    assert {event["pid"] for event in events if event["ph"] == "X"} == {0, 1, 2}
    page = run(["report", "show", f"{tmp_path}/out.report.json", "--format", "html"]).stdout
    assert all(f"rank {rank}, worker 0" in page for rank in range(3))


def test_a_rank_killed_in_the_middle_then_resume(tmp_path, large):
    output = tmp_path / "out"
    args = ["smooth", f"{large}/./a.nii", "--output", str(output), "--sigma=1", "--threads=1", "--no-sync"]
    args += ["--split=always"]
    with start(args, ranks=2, env={"NIIMPI_TEST_FAULT": "slow@1:60000"}) as running:
        deadline = time.monotonic() + 60
        # Rank 0 has created the file and waits for the section of rank 1.
        while not list(output.rglob("*.part")) and not list(output.rglob(".*a.nii*")):
            assert time.monotonic() < deadline, list(output.rglob("*"))
            time.sleep(0.05)
        os.kill(ranks_alive(running.mark)[1], signal.SIGKILL)
        assert running.wait(60).code not in (0, 1)
    assert not (output / "a.nii").exists()
    report = smooth(large / "a.nii", output, "--sigma=1", "--split=always", "--resume", ranks=2).report
    assert report["totals"]["done"] == 1 and shared_by(report) == [[0, 1]]
    assert [path.name for path in images.results(output) if path.is_file()] == ["a.nii"]
    smooth(large / "a.nii", tmp_path / "one", "--sigma=1", ranks=1)
    assert digest(output / "a.nii") == digest(tmp_path / "one" / "a.nii")


def test_an_image_that_exceeds_the_memory_of_a_rank_is_shared(tmp_path):
    """64 MiB of voxels, and about 40 MiB for images in each rank. The small images have one rank each."""
    folder = tmp_path / "in"
    images.series(folder, 3)
    rng = np.random.default_rng(8)
    images.write(folder / "large.nii", rng.standard_normal((256, 256, 256), dtype="float32"))
    # MPICH itself takes 60 MiB more.
    most_mib = 145 if MPI == "mpich" else 80
    env = {"SLURM_MEM_PER_NODE": 2 * most_mib}
    refused = smooth(folder, tmp_path / "no", "--sigma=1", "--split=never", ranks=2, env=env, expect=2)
    assert "the largest image needs " in refused.stderr
    output = tmp_path / "out"
    planned = smooth(folder, output, "--sigma=1", "--dry-run", ranks=2, env=env)
    assert "2 ranks share it" in planned.stdout and ", 1 of them shared by ranks" in planned.stdout
    report = smooth(folder, output, "--sigma=1", ranks=2, env=env).report
    shared = dict(zip((image["input"] for image in report["images"]), shared_by(report)))
    assert [ranks for name, ranks in shared.items() if name.endswith("large.nii")] == [[0, 1]]
    assert sorted(shared.values()) == [[], [], [], [0, 1]]
    highest = [rank["max_rss_bytes"] >> 20 for rank in report["ranks"]]
    assert all(mib < most_mib for mib in highest), highest
    smooth(folder / "large.nii", tmp_path / "one", "--sigma=1")
    assert digest(output / "large.nii") == digest(tmp_path / "one" / "large.nii")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_any_rank_stops_shared_images(tmp_path, rank):
    images.series(tmp_path / "in", 30, shape=(20, 20, 20))
    args = arguments(tmp_path, "--sigma=1", "--split=always", "--report", tmp_path / "r.json")
    with start(args, 2, env={"NIIMPI_TEST_FAULT": "slow@0:200"}) as running:
        until = time.monotonic() + 60
        while len(list((tmp_path / "out").glob("sample_*"))) < 2:
            assert running.process.poll() is None and time.monotonic() < until, running.wait(5)
            time.sleep(0.01)
        done = len(list((tmp_path / "out").glob("sample_*")))
        os.kill(ranks_alive(running.mark)[rank], signal.SIGTERM)
        finished = running.wait(60, tmp_path / "r.json")
    assert finished.code == 75 and "too short" not in finished.stderr, finished
    totals = finished.report["totals"]
    # The image in progress is finished, and the rank that leads learns of the signal with it.
    assert done <= totals["done"] <= done + 3 and totals["failed"] == 0, totals
    assert totals["done"] + totals["skipped"] == 30, totals
