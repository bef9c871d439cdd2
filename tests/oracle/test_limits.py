"""Limits of the system on a process (files, file sizes, address space), and signals before any work."""

import os
import signal
import time

import pytest

import images
from faulty import faulty  # noqa: F401
from filters import each_filter
from program import run, start

pytestmark = [pytest.mark.timeout(120)]


def arguments(folder, *options):
    return ["smooth", folder / "in", "--output", folder / "out", *options]


def limited(what, value):
    return ["bash", "-c", f'ulimit {what} {value}; exec "$@"', "-"]


def test_few_open_files_and_a_slow_disk_fail_no_image(tmp_path, faulty):  # noqa: F811
    """The hard limit cannot be raised, so fewer results wait for the disk."""
    images.series(tmp_path / "in", 150)
    env = faulty("fsync:200ms:0:out")
    finished = run(
        arguments(tmp_path, "--sigma=1", "--threads=24"), prefix=limited("-n", 256), env=env, timeout=100
    )
    assert finished.code == 0, finished
    assert len(images.results(tmp_path / "out")) == 150


def test_few_open_files_fail_no_image_of_a_bids_dataset(tmp_path, faulty):  # noqa: F811
    """Each result has four files. The root is listed when no file is free."""
    raw = tmp_path / "in"
    rng = images.np.random.default_rng(4)
    for number in range(100, 260):
        folder = raw / f"sub-{number}" / "dwi"
        array = images.random_array(rng, (6, 5, 7, 3), "int16")
        images.write(folder / f"sub-{number}_dwi.nii.gz", array, affine=images.diagonal(2, 2, 2))
    (raw / "dataset_description.json").write_text('{"Name": "few", "BIDSVersion": "1.9.0"}')
    (raw / "dwi.json").write_text('{"EchoTime": 0.1}')
    (raw / "dwi.bval").write_text("0 1000 1000\n")
    (raw / "dwi.bvec").write_text("0 1 0\n0 0 1\n0 0 0\n")
    words = arguments(tmp_path, "--bids", "--fwhm=6", "--threads=16")
    finished = run(words, prefix=limited("-n", 256), env=faulty("fsync:50ms:0:out"), timeout=100)
    assert finished.code == 0, finished
    for suffix in (".nii.gz", ".json", ".bval", ".bvec"):
        assert len(list((tmp_path / "out").rglob(f"sub-*_dwi{suffix}"))) == 160, finished


@pytest.mark.parametrize("options", [[], ["--follow-links"]])
def test_the_entries_of_new_folders_are_synced(tmp_path, faulty, options):  # noqa: F811
    """Only the sync of the folder that holds a new folder fails."""
    array = images.random_array(images.np.random.default_rng(6), (5, 6, 7), "int16")
    images.write(tmp_path / "in" / "sub-1" / "dwi" / "a.nii", array, affine=images.diagonal(2, 2, 2))
    env = faulty("fsync:5:0:/out/sub-1$")
    report = tmp_path / "report.json"
    words = arguments(tmp_path, "--sigma=1", "--report", report, *options)
    finished = run(words, env=env, report_path=report)
    assert finished.code == 1, finished
    assert "opening the folder failed" in finished.report["images"][0]["error"], finished
    finished = run([*words, "--resume", "--no-sync"], env=env, report_path=report)
    assert finished.code == 0, finished


def test_a_low_soft_limit_on_open_files_is_raised(tmp_path):
    images.series(tmp_path / "in", 60)
    finished = run(arguments(tmp_path, "--sigma=1", "--threads=16"), prefix=limited("-Sn", 64))
    assert finished.code == 0, finished


def test_a_file_beyond_the_largest_allowed_fails_its_image_alone(tmp_path):
    images.series(tmp_path / "in", 4)
    rng = images.np.random.default_rng(1)
    images.write(tmp_path / "in" / "large.nii", images.random_array(rng, (100, 100, 100), "float32"))
    report = tmp_path / "report.json"
    words = arguments(tmp_path, "--sigma=1", "--report", report, "--no-sync")
    finished = run(words, prefix=limited("-f", 1000), report_path=report)
    assert finished.code == 1, finished
    totals = finished.report["totals"]
    assert (totals["done"], totals["failed"]) == (4, 1), finished


@each_filter
@pytest.mark.parametrize("mib", [500, 700, 1000])
def test_little_address_space_ends_no_run_by_a_signal(tmp_path, mib, filter):
    """Threads that wait for files and for the disk share the reserved address space."""
    images.series(tmp_path / "in", 30, shape=(40, 40, 40))
    words = [*filter.words, tmp_path / "in", "--output", tmp_path / "out", "--threads=4"]
    finished = run(words, prefix=limited("-v", mib << 10))
    assert finished.code in (0, 1), finished
    assert "panicked" not in finished.stderr, finished


def test_a_signal_ends_the_set_up(tmp_path):
    """The list never ends. Nothing is written yet, so nothing is lost."""
    os.mkfifo(tmp_path / "list")
    words = ["smooth", "--list", tmp_path / "list", "--output", tmp_path / "out", "--sigma=1"]
    for number in (signal.SIGTERM, signal.SIGHUP):
        with start(words) as running:
            # The run is reading the list, so it is in its set-up.
            writer = os.open(tmp_path / "list", os.O_WRONLY)
            running.process.send_signal(number)
            finished = running.wait(60)
            os.close(writer)
        assert finished.code == 75, finished
        assert "nothing was written" in finished.stderr, finished
        assert not (tmp_path / "out").exists()


def in_progress(folder, *options, **others):
    running = start(arguments(folder, *options), env={"NIIMPI_TEST_FAULT": "slow@0:300"}, **others)
    until = time.monotonic() + 30
    while not any(path.read_text().count("\n") > 2 for path in (folder / "out").glob(".niimpi/*.jsonl")):
        assert time.monotonic() < until and running.process.poll() is None
        time.sleep(0.02)
    return running


def test_a_lost_terminal_ends_a_run_with_a_report(tmp_path):
    images.series(tmp_path / "in", 30)
    report = tmp_path / "report.json"
    with in_progress(tmp_path, "--sigma=1", "--threads=1", "--report", report) as running:
        running.process.send_signal(signal.SIGHUP)
        finished = running.wait(90, report)
    assert finished.code == 75 and finished.report["state"] == "interrupted", finished


def test_nohup_keeps_a_run_going(tmp_path):
    images.series(tmp_path / "in", 8)
    with in_progress(tmp_path, "--sigma=1", "--threads=1", prefix=["nohup"]) as running:
        running.process.send_signal(signal.SIGHUP)
        finished = running.wait(60)
    assert finished.code == 0, finished


def test_without_a_launcher_the_program_does_not_start_mpi(tmp_path):
    images.series(tmp_path / "in", 1)
    report = tmp_path / "report.json"
    finished = run(arguments(tmp_path, "--sigma=1", "--report", report), report_path=report)
    assert finished.code == 0, finished
    assert finished.report["launch"]["mpi"] == "one process, no MPI"
