"""Interruptions by signals and time limits: images in progress are finished, the report lists the others, and
--resume processes them."""

import contextlib
import os
import random
import signal
import time

import numpy as np
import pytest

import images
from faulty import faulty  # noqa: F401
from program import HAS_RANKS, MPI, ranks_alive, run, smooth, start
from test_faults import journal_lines, parts
from test_ranks import sums
from test_resume import lines, resume

pytestmark = pytest.mark.timeout(180)

RANKS = 2 if HAS_RANKS else None


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """Forty images and the results of an uninterrupted run."""
    place = tmp_path_factory.mktemp("slow")
    source = place / "in"
    array = images.random_array(np.random.default_rng(9), (64, 64, 64), "float32")
    first = images.write(source / "sample_1.nii", array)
    (source / "then").mkdir()
    for number in range(2, 41):
        os.link(first, source / ("then" if number > 20 else "") / f"sample_{number}.nii")
    smooth(source, place / "whole", *OPTIONS, ranks=RANKS)
    return source, sums(place / "whole")


OPTIONS = ("--sigma=200",)
# Each image takes a quarter of a second longer, so that a run is interrupted while most images are left.
SLOW = {"NIIMPI_TEST_FAULT": "slow@0:250"}
# Each write takes a tenth of a second longer: seconds for all images, but far less than a second for one.
SLOWER = "write:100ms:0:/out/"


def begun_at_least(running, out, count, ranks):
    until = time.monotonic() + 60
    while True:
        assert running.process.poll() is None, running.wait(5)
        ended = sum('"event":"end"' in line for line in journal_lines(out))
        if ended >= count and len(ranks_alive(running.mark)) == (ranks or 1):
            return
        assert time.monotonic() < until, "no image after 60 s"
        time.sleep(0.01)


def arguments(source, out, *options, width=OPTIONS):
    report = out.with_name("report.json")
    return ["smooth", source, "--output", out, *width, "--threads=1", "--report", report, *options], report


def check_interrupted(finished, out, whole, ranks, fewest=1):
    """Checks exit code 75, the state in report and journals, and that all results are complete. Returns the
    number of images done."""
    assert finished.code == 75, finished
    report = finished.report
    assert report["state"] == "interrupted"
    totals = report["totals"]
    done, skipped = totals["done"], totals["skipped"]
    assert totals["failed"] == 0 and fewest <= done < 40 and done + skipped == 40, (
        totals
    )
    assert "--resume continues" in finished.stdout, finished
    assert not parts(out)
    written = sums(out)
    assert len(written) == totals["done"] and (
        not whole or all(whole[name] == total for name, total in written.items())
    )
    closed = [line for line in lines(out) if line["event"] == "close"]
    assert [line["state"] for line in closed] == ["interrupted"] * (ranks or 1)
    started = sum(line["event"] == "begin" for line in lines(out))
    assert started == totals["done"], "every started image must be finished"
    return totals["done"]


@pytest.mark.parametrize("strategy", ["block", "dynamic"])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_to_any_rank_stops_all_in_order(tmp_path, slow, sent, strategy):
    source, whole = slow
    out = tmp_path / "out"
    args, report = arguments(source, out, "--strategy", strategy)
    with start(args, ranks=RANKS, env=SLOW) as running:
        begun_at_least(running, out, 3, RANKS)
        alive = ranks_alive(running.mark)
        os.kill(alive[random.choice(sorted(alive))], sent)
        finished = running.wait(90, report)
    done = check_interrupted(finished, out, whole, RANKS)
    assert resume(source, out, *OPTIONS, ranks=RANKS) == {"kept": done, "missing": 40 - done}
    assert sums(out) == whole


@pytest.mark.ranks
def test_a_signal_that_the_launcher_passes_on(tmp_path, slow):
    """As with `sbatch --signal=USR1@60`. A SIGTERM soon afterwards, as at the time limit, has no effect."""
    source, whole = slow
    out = tmp_path / "out"
    args, report = arguments(source, out)
    with start(args, ranks=2, env=SLOW) as running:
        begun_at_least(running, out, 3, 2)
        for process in ranks_alive(running.mark).values():
            os.kill(process, signal.SIGUSR1)
        for process in ranks_alive(running.mark).values():
            os.kill(process, signal.SIGTERM)
        finished = running.wait(90, report)
    check_interrupted(finished, out, whole, 2)


@pytest.mark.skipif(MPI != "openmpi", reason="Open MPI's mpirun passes SIGUSR1 on; others need not")
@pytest.mark.ranks
def test_a_signal_to_mpirun(tmp_path, slow):
    source, whole = slow
    out = tmp_path / "out"
    args, report = arguments(source, out)
    # mpirun loads hwloc, whose OpenCL plugin loads all drivers; that of pocl takes SIGUSR1 for itself.
    with start(args, ranks=2, env={**SLOW, "HWLOC_COMPONENTS": "-opencl"}) as running:
        begun_at_least(running, out, 3, 2)
        running.process.send_signal(signal.SIGUSR1)
        finished = running.wait(90, report)
    check_interrupted(finished, out, whole, 2)


def wait_for_part(folder, process):
    """Waits for an unfinished file of the process."""
    until = time.monotonic() + 60
    while not any(f"-{process}-" in path.name for path in parts(folder)):
        assert time.monotonic() < until, "no unfinished file appeared"
        time.sleep(0.02)


@pytest.mark.parametrize("ranks", [None, pytest.param(2, marks=pytest.mark.ranks)])
def test_a_second_interrupt_ends_at_once_and_leaves_nothing_broken(tmp_path, slow, faulty, ranks):
    """Writing is blocked for the second half of the images, so that the first interrupt alone would not end
    the run in time."""
    source, whole = slow
    out = tmp_path / "out"
    args, _ = arguments(source, out, "--strategy=cyclic")
    held = faulty("write:wait:0:/out/then/.niimpi-", go=tmp_path / "never")
    with start(args, ranks=ranks, env=held) as running:
        begun_at_least(running, out, 2, ranks)
        victim = ranks_alive(running.mark)[0]
        wait_for_part(out / "then", victim)
        os.kill(victim, signal.SIGINT)
        os.kill(victim, signal.SIGINT)
        # Two equal signals at the same moment count as one.
        at = time.monotonic()
        while running.process.poll() is None and time.monotonic() - at < 60:
            try:
                os.kill(victim, signal.SIGINT)
            except ProcessLookupError:
                break
            time.sleep(0.01)
        finished = running.wait(60)
    assert finished.code not in (0, 1, 2, 75), finished
    assert "interrupted twice" in finished.stderr, finished
    # A rank that mpirun killed could not remove its unfinished files; the next run does.
    assert ranks or not parts(out)
    written = {name: total for name, total in sums(out).items() if "/.niimpi-" not in f"/{name}"}
    assert written and all(whole[name] == total for name, total in written.items())
    resume(source, out, *OPTIONS, ranks=ranks)
    assert sums(out) == whole and not parts(out)


def test_no_image_starts_that_would_not_finish_in_time(tmp_path, slow, faulty):
    source, _ = slow
    out = tmp_path / "out"
    args, report = arguments(source, out, "--stop-before=2")
    finished = run(args, ranks=RANKS, report_path=report, env=faulty(SLOWER))
    # On a slow machine the start may take the two seconds.
    done = check_interrupted(finished, out, None, RANKS, fewest=0)
    assert "the time left is too short" in finished.stderr, finished
    assert all(record["start_s"] < 2 for record in finished.report["images"])
    found = resume(source, out, *OPTIONS, ranks=RANKS)
    assert (found.get("kept", 0), found["missing"]) == (done, 40 - done)


def test_the_end_of_the_slurm_job_is_known(tmp_path, slow, faulty):
    """Five seconds are left for the report."""
    source, _ = slow
    out = tmp_path / "out"
    args, report = arguments(source, out)
    end = int(time.time()) + 9
    finished = run(args, report_path=report, env=faulty("write:200ms:0:/out/") | {"SLURM_JOB_END_TIME": end})
    done = check_interrupted(finished, out, None, None, fewest=0)
    # --stop-before overrides the end of the Slurm job.
    args, report = arguments(source, out, "--resume", "--stop-before=1000")
    finished = run(args, report_path=report, env={"SLURM_JOB_END_TIME": "1"})
    assert finished.code == 0 and finished.report["totals"]["done"] == 40 - done, finished


def test_no_time_at_all(tmp_path, slow):
    source, _ = slow
    out = tmp_path / "out"
    args, report = arguments(source, out, "--stop-before=0.000001")
    finished = run(args, ranks=RANKS, report_path=report)
    assert finished.code == 75 and finished.report["totals"]["skipped"] == 40, finished
    assert run(["smooth", source, "--output", out, "--sigma=1", "--stop-before=0"]).code == 2


def test_status_during_a_run(tmp_path, slow, faulty):  # noqa: F811
    source, _ = slow
    out = tmp_path / "out"
    args, _ = arguments(source, out)
    with start(args, ranks=RANKS, env=faulty(SLOWER)) as running:
        begun_at_least(running, out, 3, RANKS)
        status = run(["status", out])
        assert status.code == 0 and "running" in status.stdout and " left" in status.stdout, status
        assert "sample_" in status.stdout, "images in progress must be listed"
        for process in ranks_alive(running.mark).values():
            # The launcher may have killed the second rank because the first one ended.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        running.wait(90)
    status = run(["status", out])
    assert status.stdout.count("has died; once the job has ended, --resume does the rest") == (RANKS or 1), (
        status
    )
