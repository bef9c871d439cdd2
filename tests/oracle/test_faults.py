"""Faults of disks, files and memory: each fails only the affected images, with a message."""

import errno
import gzip
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import images
import program
from faulty import faulty  # noqa: F401
from filters import FILTERS, each_filter
from program import HAS_RANKS, ranks_alive, run, smooth, start
from test_failures import as_ordinary, ordinary, smooth_as  # noqa: F401
from test_ranks import sums
from test_resume import resume

pytestmark = pytest.mark.timeout(240)

RANKS = 2 if HAS_RANKS else None


def parts(folder):
    """Unfinished files below a folder."""
    return [path for path in Path(folder).rglob(".niimpi-*") if path.is_file()]


def failed(finished):
    return {
        Path(record["input"]).name: record
        for record in finished.report["images"]
        if record["status"] == "failed"
    }


def check_rest(source, out, tmp_path, broken=(), filter=FILTERS[0]):
    """Checks that all results except those of `broken` are correct, and that no unfinished file is left."""
    assert not parts(out)
    whole = tmp_path / "undisturbed"
    if not whole.exists():
        filter.run(source, whole)
    expected = {name: total for name, total in sums(whole).items() if name not in broken}
    assert sums(out) == expected


# ---- space


@each_filter
def test_one_image_meets_a_full_disk(tmp_path, faulty, filter):
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 3)
    images.write(source / "large.nii", images.random_array(np.random.default_rng(2), (64, 64, 64), "float32"))
    # Only files larger than 1 MiB do not fit.
    env = faulty(f"write:{errno.ENOSPC}:1000000:/out/.niimpi-")
    finished = filter.run(source, out, ranks=filter.ranks, env=env, expect=1)
    assert list(failed(finished)) == ["large.nii"]
    record = failed(finished)["large.nii"]
    assert record["problem"] == "disk-full", record
    assert record["stage"] == "write" and "the disk is full or the quota is used up" in record["error"], (
        record
    )
    check_rest(source, out, tmp_path, {"large.nii"}, filter)
    found = resume(source, out, *filter.options, command=filter.command, ranks=filter.ranks)
    assert found == {"kept": 3, "failed_before": 1}
    check_rest(source, out, tmp_path, filter=filter)


@pytest.mark.parametrize("cause", [errno.ENOSPC, errno.EDQUOT])
def test_nothing_fits_any_more(tmp_path, faulty, cause):
    """The run ends early with one message, not with one for each image."""
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 300, shape=(20, 20, 20))
    env = faulty(f"write:{cause}:0:/out/.niimpi-")
    finished = smooth(source, out, "--sigma=1", ranks=RANKS, env=env, expect=1)
    totals = finished.report["totals"]
    assert totals["done"] == 0 and totals["failed"] < 150 and totals["skipped"] > 100, totals
    assert finished.report["state"] == "failed"
    assert finished.stderr.count("stopped early") == 1, finished
    errors = [line for line in finished.stderr.splitlines() if " ERROR " in line]
    assert len(errors) <= 1 + (RANKS or 1), finished
    assert not parts(out)
    found = resume(source, out, "--sigma=1", ranks=RANKS)
    assert found == {"failed_before": totals["failed"], "missing": totals["skipped"]}
    check_rest(source, out, tmp_path)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MiB; needs root."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = (
        os.geteuid() == 0
        and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place]).returncode == 0
    )
    if not mounted:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("split", ["never", "always"])
def test_a_disk_becomes_full_in_the_middle(tmp_path, small_disk, split):
    source, out = tmp_path / "in", small_disk / "out"
    images.series(source, 200, shape=(40, 40, 40))
    options = ["--sigma=1", f"--split={split}"]
    finished = smooth(source, out, *options, ranks=RANKS, threads=2, expect=1, report=tmp_path / "r.json")
    totals = finished.report["totals"]
    assert totals["done"] > 10 and totals["failed"] > 0 and totals["skipped"] > 50, totals
    assert finished.stderr.count("stopped early") == 1, finished
    smooth(source, tmp_path / "undisturbed", "--sigma=1", ranks=RANKS)
    whole = sums(tmp_path / "undisturbed")
    written = sums(out)
    assert len(written) >= totals["done"] and all(whole[name] == total for name, total in written.items())
    assert not parts(out)
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    again = smooth(source, out, "--sigma=1", "--resume", ranks=RANKS, report=tmp_path / "again.json")
    assert again.report["resume"]["kept"] >= totals["done"] - 5, (
        "more records are lost than lines that did not fit"
    )
    assert sums(out) == whole


# ---- the file system


@pytest.mark.parametrize("call", ["read", "write", "fsync", "open"])
@each_filter
def test_an_input_output_error(tmp_path, faulty, filter, call):
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 6)
    part = "sample_3" if call in ("read", "open") else "/out/.niimpi-"
    # Every result is first an unfinished file, so that one fault affects all of them.
    env = faulty(f"{call}:{errno.EIO}:0:{part}")
    finished = filter.run(source, out, "--strategy=block", ranks=filter.ranks, env=env, sync=True, expect=1)
    broken = failed(finished)
    if part == "/out/.niimpi-":
        assert len(broken) == 6 and not sums(out), finished
        assert all(record["stage"] == "write" for record in broken.values())
    else:
        assert list(broken) == ["sample_3.nii.gz"] and broken["sample_3.nii.gz"]["stage"] == "read"
        check_rest(source, out, tmp_path, set(broken), filter)
    assert all("Input/output error" in record["error"] for record in broken.values()), broken
    assert not parts(out)
    resume(source, out, *filter.options, command=filter.command, ranks=filter.ranks)
    check_rest(source, out, tmp_path, filter=filter)


def test_a_temporary_read_error(tmp_path, faulty):
    """niimpi reads the image once more, and the report counts this."""
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 4)
    env = faulty(f"read:{errno.EIO}x1:0:sample_3")
    finished = smooth(source, out, "--sigma=1", "--strategy=block", env=env)
    assert finished.report["totals"]["retried"] == 1, finished
    assert [row["retries"] for row in finished.report["images"]] == [0, 0, 1, 0]
    assert "1 read again after an error" in finished.stdout, finished
    check_rest(source, out, tmp_path)


@each_filter
def test_a_rank_stops_when_its_journal_cannot_be_written(tmp_path, faulty, filter):  # noqa: F811
    """The rank writes no result without a record: images in progress fail, the others are not started."""
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 40)
    # There is room for the lines of some images and for half a line.
    env = faulty(f"write:{errno.EIO}:8000:/.niimpi/journal-") | {"NIIMPI_TEST_FAULT": "slow@0:200"}
    finished = filter.run(source, out, "--strategy=block", ranks=filter.ranks, env=env, expect=1)
    assert "stopping: without a journal no result may get its name" in finished.stderr, finished
    totals = finished.report["totals"]
    assert 0 < totals["done"] < 40 and totals["skipped"] > 0, totals
    for record in failed(finished).values():
        assert "the journal cannot be written" in record["error"], record
    whole_lines = [json.loads(line) for line in journal_lines(out) if is_whole_line(line)]
    recorded = {record["output"] for record in whole_lines if record["event"] == "staged"}
    assert set(sums(out)) <= recorded and not parts(out)
    found = resume(source, out, *filter.options, command=filter.command, ranks=filter.ranks)
    assert found["kept"] >= totals["done"], found
    check_rest(source, out, tmp_path, filter=filter)


def is_whole_line(line):
    try:
        json.loads(line)
        return True
    except ValueError:
        return False


def test_a_folder_without_write_permission(ordinary):  # noqa: F811
    """If one of two output folders is not writable, only its images fail. If the output folder itself or its
    .niimpi is not writable, this is a set-up error."""
    place = ordinary[0]
    images.series(place / "in" / "a", 3)
    images.series(place / "in" / "b", 3)
    (place / "out" / "b").mkdir(parents=True)
    prefix = ordinary[2]
    as_ordinary(place, prefix)
    (place / "out" / "b").chmod(0o555)
    finished = smooth_as(ordinary, place / "in", place / "out", "--sigma=1", ranks=RANKS, expect=1)
    broken = [record for record in finished.report["images"] if record["status"] == "failed"]
    assert len(broken) == 3 and all("no permission to write in" in record["error"] for record in broken), (
        finished
    )
    assert len(sums(place / "out")) == 3
    (place / "out" / ".niimpi").chmod(0o555)
    closed = smooth_as(
        ordinary, place / "in", place / "out", "--sigma=1", "--overwrite", ranks=RANKS, expect=2
    )
    assert "cannot write its journal" in closed.stderr, closed
    (place / "out").chmod(0o555)
    closed = smooth_as(
        ordinary, place / "in", place / "out", "--sigma=1", "--overwrite", ranks=RANKS, expect=2
    )
    assert "cannot be written to" in closed.stderr, closed


def test_an_output_on_a_read_only_disk(tmp_path, small_disk):
    images.series(tmp_path / "in", 2)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    finished = run(["smooth", tmp_path / "in", "--output", small_disk, "--sigma=1"], ranks=RANKS)
    assert finished.code == 2 and "cannot be written to" in finished.stderr, finished


@pytest.mark.parametrize("change", ["grows", "is replaced in place", "vanishes"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_an_input_that_changes_while_it_is_read(tmp_path, faulty, change, suffix):
    source, out, go = tmp_path / "in", tmp_path / "out", tmp_path / "go"
    images.series(source, 2)
    path = images.write(
        source / f"moving{suffix}", images.random_array(np.random.default_rng(1), (99, 99, 99), "float32")
    )
    content = path.read_bytes()
    # The run is blocked when it reads the file beyond its header.
    args = [
        "smooth",
        source,
        "--output",
        out,
        "--sigma=1",
        "--threads=1",
        "--strategy=block",
        "--report",
        tmp_path / "r.json",
    ]
    env = faulty(f"read:wait:{1000 if suffix == '.nii.gz' else 300}:moving", go=go)
    with start(args, ranks=RANKS, env=env) as running:
        until = time.monotonic() + 60
        while not any('"begin"' in line and "moving" in line for line in journal_lines(out)):
            assert time.monotonic() < until and running.process.poll() is None
            time.sleep(0.02)
        while not go.with_name("go.held").exists():
            assert time.monotonic() < until and running.process.poll() is None
            time.sleep(0.02)
        if change == "grows":
            with open(path, "ab") as file:
                file.write(b"\0" * 512)
        elif change == "vanishes":
            path.unlink()
        else:
            with open(path, "r+b") as file:
                file.seek(len(content) // 2)
                file.write(content[:1000])
        go.touch()
        finished = running.wait(60, tmp_path / "r.json")
    if change == "vanishes":
        # A file that is already open is read to its end.
        assert finished.code == 0, finished
        return
    assert finished.code == 1, finished
    record = failed(finished)[path.name]
    assert record["stage"] == "read", record
    if suffix == ".nii":
        assert "was changed while it was read" in record["error"], record
    assert not (out / path.name).exists() and not parts(out)
    path.write_bytes(content)
    resume(source, out, "--sigma=1", ranks=RANKS)
    check_rest(source, out, tmp_path)


def journal_lines(out):
    return [line for path in Path(out).glob(".niimpi/*.jsonl") for line in path.read_text().splitlines()]


def test_an_input_that_is_removed_before_it_is_read(tmp_path, faulty):
    """One of the next inputs is already open and is read to its end. A later one fails."""
    source, out, go = tmp_path / "in", tmp_path / "out", tmp_path / "go"
    images.series(source, 12)
    args = [
        "smooth",
        source,
        "--output",
        out,
        "--sigma=1",
        "--threads=1",
        "--strategy=block",
        "--report",
        tmp_path / "r.json",
    ]
    with start(args, env=faulty("read:wait:0:sample_1.", go=go)) as running:
        until = time.monotonic() + 60
        while not is_open(running.process.pid, source / "sample_3.nii.gz"):
            assert time.monotonic() < until and running.process.poll() is None
            time.sleep(0.02)
        assert not is_open(running.process.pid, source / "sample_11.nii.gz")
        (source / "sample_3.nii.gz").unlink()
        (source / "sample_11.nii.gz").unlink()
        go.touch()
        finished = running.wait(60, tmp_path / "r.json")
    assert finished.code == 1 and list(failed(finished)) == ["sample_11.nii.gz"], finished
    assert "there is no such file" in failed(finished)["sample_11.nii.gz"]["error"]
    assert finished.report["totals"]["done"] == 11
    assert (out / "sample_3.nii.gz").exists()


def is_open(pid, path):
    """Whether a process has a file open."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if link.readlink() == path:
                return True
        except FileNotFoundError:
            pass
    return False


# ---- memory


def lying(path, shape, datatype=(16, 32)):
    """A compressed image of zeros, 4 bytes per voxel, that is far larger than the memory. Its header is
    correct."""
    header = images.header_for(np.zeros((1, 1, 1), "float32"))
    content = bytearray(images.image_bytes(np.zeros((1, 1, 1), "float32"), header))
    struct.pack_into("<4h", content, 40, 3, *shape)
    zeros = int(np.prod(shape)) * 4
    with gzip.open(path, "wb", 1) as file:
        file.write(content[:352])
        piece = bytes(1 << 20)
        while zeros > 0:
            zeros -= file.write(piece[: min(zeros, len(piece))])


def test_an_image_beyond_the_memory_of_ulimit_is_refused(tmp_path):
    """The message has figures, and the image is not loaded. Images that fit are done, large ones one at a
    time."""
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 4)
    lying(source / "huge.nii.gz", (900, 900, 900))
    rng = np.random.default_rng(4)
    for number in range(3):
        # 108 MiB each: more than a worker's share, less than the limit.
        images.write(source / f"large_{number}.nii", images.random_array(rng, (320, 300, 300), "float32"))
    limit = 1_400 << 20

    args = [
        "smooth",
        source,
        "--output",
        out,
        "--sigma=0.5",
        "--threads=4",
        "--report",
        tmp_path / "r.json",
        "--no-sync",
    ]
    finished = run(
        args,
        report_path=tmp_path / "r.json",
        prefix=["bash", "-c", f'ulimit -v {limit >> 10}; exec "$@"', "-"],
        timeout=120,
    )
    assert finished.code == 1, finished
    assert list(failed(finished)) == ["huge.nii.gz"], finished
    record = failed(finished)["huge.nii.gz"]
    assert (
        record["stage"] == "read"
        and "needs 2781 MiB of memory" in record["error"]
        and "ulimit -v" in record["error"]
    ), record
    assert finished.report["totals"]["done"] == 7
    assert finished.report["totals"]["max_rss_bytes"] < limit


def test_an_image_with_a_very_long_axis_is_refused_and_the_run_continues(tmp_path):
    """50 million voxels along y: a file of 50 KB, voxels of 50 MB, and gigabytes for a tile of lines."""
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 2)
    header = bytearray(544)
    struct.pack_into("<i8s2h", header, 0, 540, b"n+2\0\r\n\x1a\n", 2, 8)
    struct.pack_into("<8q", header, 16, 4, 1, 50_000_000, 1, 1, 1, 1, 1)
    struct.pack_into("<8d", header, 104, 1, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<q", header, 168, 544)
    with gzip.open(source / "line.nii.gz", "wb", 9) as file:
        file.write(header + bytes(50_000_000))
    args = [
        "smooth",
        source,
        "--output",
        out,
        "--sigma=1",
        "--threads=1",
        "--report",
        tmp_path / "r.json",
        "--no-sync",
    ]
    limited = ["bash", "-c", 'ulimit -v 3000000; exec "$@"', "-"]
    finished = run(args, prefix=limited, report_path=tmp_path / "r.json", timeout=120)
    assert finished.code == 1 and list(failed(finished)) == ["line.nii.gz"], finished
    assert "of memory" in failed(finished)["line.nii.gz"]["error"], finished
    assert finished.report["totals"]["done"] == 2


@pytest.mark.parametrize("nan, fits", [("propagate", True), ("zero", True), ("ignore", False)])
def test_the_treatment_of_nan_counts_in_a_slurm_job(tmp_path, nan, fits):
    """2²³ voxels of float32 are 32 MiB. Ignoring NaN takes 128 MiB more, which the job does not have."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    voxels = images.random_array(np.random.default_rng(3), (256, 256, 128), "float32")
    voxels[5, 5, 5] = np.nan
    images.write(source / "a.nii", voxels)
    args = ["smooth", source, "--output", out, "--sigma=1", f"--nan={nan}", "--threads=1", "--no-sync"]
    args += ["--report", tmp_path / "r.json"]
    # The program takes 15 to 25 MiB, and its worker 12, so the limit is far from both sums.
    env = {"SLURM_JOB_ID": 1, "SLURM_MEM_PER_NODE": 135}
    finished = run(args, env=env, report_path=tmp_path / "r.json", timeout=120)
    if fits:
        assert finished.code == 0, finished
    else:
        assert finished.code == 2 and "the largest image needs 16" in finished.stderr, finished
        assert not list(tmp_path.rglob("out/*.nii"))


def memory_group():
    """A control group for this test with a memory limit, version 1 or 2; needs root."""
    for root, file in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / f"niimpi-test-{os.getpid()}"
        try:
            group.mkdir()
            if (group / file).exists():
                return group, file
            group.rmdir()
        except OSError:
            pass
    return None


def test_an_image_beyond_the_memory_of_a_control_group_is_refused(tmp_path):
    made = memory_group()
    if not made:
        pytest.skip("no control group can be made here")
    group, file = made
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 4)
    lying(source / "huge.nii.gz", (700, 700, 700))
    try:
        (group / file).write_text(str(512 << 20))
        args = [
            "smooth",
            source,
            "--output",
            out,
            "--sigma=1",
            "--threads=2",
            "--report",
            tmp_path / "r.json",
        ]
        words = ["bash", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "-"]
        run_in_group = {"ranks": RANKS, "report_path": tmp_path / "r.json", "prefix": words, "timeout": 120}
        finished = run([*args, "--split=never"], **run_in_group)
        assert finished.code == 1 and list(failed(finished)) == ["huge.nii.gz"], finished
        error = failed(finished)["huge.nii.gz"]["error"]
        assert "needs 1309 MiB of memory" in error and "the memory limit of the control group" in error, error
        assert finished.report["totals"]["done"] == 4
        if RANKS:
            shared = run([*args, "--resume"], **run_in_group)
            assert shared.code == 0, shared
            (huge,) = [image for image in shared.report["images"] if image["status"] == "done"]
            assert len(huge["shared"]) == RANKS
    finally:
        for _ in range(50):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.1)


# ---- kill


def wait_for(running, out, ranks, ended):
    """Waits until all ranks are alive and the journals contain the end of at least `ended` images. Returns
    False if the run ended first."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if running.process.poll() is not None:
            return False
        if (
            len(ranks_alive(running.mark)) == ranks
            and sum('"end"' in line for line in journal_lines(out)) >= ended
        ):
            return True
        time.sleep(0.01)
    raise AssertionError("no image after 60 s")


KILLS = int(os.environ.get("NIIMPI_STRESS_KILLS", "5"))
# Kills of each filter, and the length of an axis for images of a few milliseconds.
KILLED = [(FILTERS[0], KILLS, 48)] + [(filter, -(-KILLS // 5), 24) for filter in FILTERS[1:]]


@pytest.mark.ranks
@pytest.mark.timeout(300 + 60 * KILLS)
@pytest.mark.parametrize(("filter", "kills", "length"), KILLED, ids=[filter.name for filter, *_ in KILLED])
def test_a_rank_killed_at_any_moment_costs_nothing(tmp_path, filter, kills, length):
    """Kills one of three ranks with kill -9 at random moments. The job ends, and a resumed run completes
    it."""
    rng = random.Random(os.environ.get("NIIMPI_STRESS_SEED", "1"))
    source = tmp_path / "in"
    images.series(source, 40, shape=(length,) * 3)
    filter.run(source, tmp_path / "whole", ranks=3)
    whole = sums(tmp_path / "whole")
    killed = unfinished = 0
    slowest = 0.0
    # A run that ends before the kill does not count.
    for number in range(10 * kills):
        if killed == kills:
            break
        out = tmp_path / f"out_{number}"
        strategy = rng.choice(["block", "cyclic", "size", "dynamic"])
        sync = rng.choice([[], ["--no-sync"]])
        args = [*filter.words, source, "--output", out, "--threads=2", "--strategy", strategy, *sync]
        with start(args, ranks=3, env={"NIIMPI_TEST_FAULT": "slow@0:20"}) as running:
            if wait_for(running, out, 3, rng.randrange(0, 30)):
                time.sleep(rng.random() * 0.05)
                alive = ranks_alive(running.mark)
                victim = rng.choice(sorted(alive)) if alive else None
                if victim is not None:
                    try:
                        os.kill(alive[victim], signal.SIGKILL)
                        killed += 1
                    except ProcessLookupError:
                        pass
            at = time.monotonic()
            running.wait(90)
            while program.processes(running.mark):
                assert time.monotonic() - at < 120, "processes of a job are left after a rank was killed"
                time.sleep(0.05)
            slowest = max(slowest, time.monotonic() - at)
        # Files under final names are complete.
        assert all(
            whole[name] == total
            for name, total in sums(out).items()
            if not name.rpartition("/")[2].startswith(".niimpi-")
        )
        how = {"command": filter.command, "ranks": rng.choice([1, 2, 3])}
        found = resume(source, out, *filter.options, **how)
        unfinished += found.get("unfinished", 0)
        assert sums(out) == whole and not parts(out), f"round {number}, {strategy}: {found}"
        shutil.rmtree(out)
    print(f"{filter.name}: {killed} kills, {unfinished} unfinished, job's end after {slowest:.1f} s at most")
    assert killed == kills
