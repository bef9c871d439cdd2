"""Differences between ranks are refused before the work starts, and so are runs that would conflict."""

import os
import subprocess
import time

import pytest

import images
from faulty import faulty  # noqa: F401
from program import NIIMPI, run, start

pytestmark = [pytest.mark.timeout(120)]

UNSHARE = ("unshare", "--mount", "--propagation", "private")


def ranks_of(first, second):
    """The command that starts one rank with the first arguments and one with the second."""
    words = [str(word) for word in first] + [":", "-n", "1", *second[0], NIIMPI]
    return words + [str(word) for word in second[1]]


def arguments(folder, *options):
    return ["smooth", folder / "in", "--output", folder / "out", "--threads=1", "--no-sync", *options]


DIFFERENCES = {
    "sigma": (["--sigma=1"], ["--sigma=2"], "sigma is "),
    "boundary": (["--sigma=1"], ["--sigma=1", "--boundary=wrap"], "boundary is "),
    "strategy": (
        ["--sigma=1"],
        ["--sigma=1", "--strategy=dynamic"],
        "--strategy is size on rank 0 and dynamic on rank 1",
    ),
    "dry run": (["--sigma=1"], ["--sigma=1", "--dry-run"], "--dry-run is false on rank 0 and true on rank 1"),
    "shard": (
        ["--sigma=1"],
        ["--sigma=1", "--shard=1/2"],
        "--shard is not given on rank 0 and 1/2 on rank 1",
    ),
    "resume": (["--sigma=1"], ["--sigma=1", "--resume"], "existing results"),
    # The device of rank 0 does not compute this method, which rank 1 does not know.
    "device": (
        ["--sigma=1", "--method=fft", "--device=opencl"],
        ["--sigma=1", "--method=fft"],
        "--device is opencl on rank 0 and cpu on rank 1",
    ),
}


@pytest.mark.ranks
@pytest.mark.parametrize("difference", DIFFERENCES)
def test_ranks_with_different_options_are_refused(tmp_path, difference):
    images.series(tmp_path / "in", 6)
    first, second, said = DIFFERENCES[difference]
    words = ranks_of(arguments(tmp_path, *first), ((), arguments(tmp_path, *second)))
    finished = run(words, ranks=1)
    assert finished.code == 2, finished
    assert said in finished.stderr and "panicked" not in finished.stderr, finished
    assert not (tmp_path / "out").exists(), "nothing is written"


@pytest.mark.ranks
def test_ranks_with_other_inputs_outputs_or_commands_are_refused(tmp_path):
    images.series(tmp_path / "in", 6)
    first = arguments(tmp_path, "--sigma=1")
    other_output = [*first[:3], tmp_path / "elsewhere", *first[4:]]
    other_input = [first[0], tmp_path / "in" / "sample_1.nii.gz", *first[2:]]
    verify = ["verify", tmp_path / "in"]
    for second, said in (
        (other_output, "--output is "),
        (other_input, "the input is "),
        (verify, "the command is "),
    ):
        for order in ((first, second), (second, first)):
            finished = run(ranks_of(order[0], ((), order[1])), ranks=1)
            assert finished.code == 2, finished
            assert said in finished.stderr and "panicked" not in finished.stderr, finished
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.ranks
def test_ranks_may_have_different_numbers_of_threads(tmp_path):
    images.series(tmp_path / "in", 6)
    first = arguments(tmp_path, "--sigma=1")
    second = [*first[:4], "--threads=2", *first[5:]]
    report = tmp_path / "report.json"
    words = [ranks_of([*first, "--report", report], ((), [*second, "--report", report]))]
    finished = run(*words, ranks=1, report_path=report)
    assert finished.code == 0, finished
    assert [rank["threads"] for rank in finished.report["ranks"]] == [1, 2]


def may_mount():
    return os.geteuid() == 0 and subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0


def hidden_below(folder):
    """A command prefix with which a program sees an empty folder there."""
    script = f'mount -t tmpfs none "{folder}" && exec "$@"'
    return (*UNSHARE, "sh", "-c", script, "sh")


@pytest.mark.ranks
@pytest.mark.skipif(not may_mount(), reason="needs the right to mount")
def test_an_output_that_only_one_node_sees_is_refused(tmp_path):
    images.series(tmp_path / "in", 12)
    (tmp_path / "out").mkdir()
    words = arguments(tmp_path, "--sigma=1")
    command = ranks_of(words, (hidden_below(tmp_path / "out"), words))
    finished = run(command, ranks=1, env={"NIIMPI_TEST_WAIT_MS": "300"})
    assert finished.code == 2, finished
    assert "rank 1 on " in finished.stderr and "all nodes share" in finished.stderr, finished
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
    assert not list((tmp_path / "out" / ".niimpi").iterdir()), "a refused run leaves no journal"


def held(folder, faulty, *options):
    """Starts a run that continues until the file `go` exists, and waits for its journal."""
    env = faulty("write:wait:0:/out/.niimpi-", go=folder / "go")
    running = start(arguments(folder, *options), env=env)
    wait_for_journal(folder, running)
    return running


def wait_for_journal(folder, running):
    until = time.monotonic() + 60
    journals = lambda: (folder / "out").glob(".niimpi/*.jsonl")  # noqa: E731
    while not any(journal.read_text().count("\n") > 1 for journal in journals()):
        assert time.monotonic() < until and running.process.poll() is None
        time.sleep(0.02)


def test_a_second_run_of_the_same_images_is_refused(tmp_path, faulty):  # noqa: F811
    images.series(tmp_path / "in", 8)
    with held(tmp_path, faulty, "--sigma=1") as first:
        for options in (
            ["--sigma=1", "--resume"],
            ["--sigma=4", "--overwrite"],
            ["--sigma=1", "--resume", "--shard=1/2"],
        ):
            finished = run(arguments(tmp_path, *options))
            assert finished.code == 2, finished
            assert f"process {first.process.pid} on " in finished.stderr, finished
            assert "since 20" in finished.stderr, finished
        # A run with another list is allowed.
        image = tmp_path / "in" / "sample_8.nii.gz"
        other = ["smooth", image, "--output", tmp_path / "out", "--sigma=2", "--no-sync"]
        finished = run([*other, "--base", tmp_path / "in", "--name", "other_{stem}"])
        assert finished.code == 0, finished
        assert finished.stderr.count("another run is in progress") == 1, finished
        (tmp_path / "go").touch()
        assert first.wait(60).code == 0
    assert run(arguments(tmp_path, "--sigma=1", "--resume")).code == 0, "the first has ended"


def test_disjoint_shards_run_at_the_same_time(tmp_path, faulty):  # noqa: F811
    images.series(tmp_path / "in", 8)
    with held(tmp_path, faulty, "--sigma=1", "--shard=1/2") as first:
        finished = run(arguments(tmp_path, "--sigma=1", "--shard=2/2"))
        assert finished.code == 0, finished
        (tmp_path / "go").touch()
        assert first.wait(60).code == 0
    assert len(images.results(tmp_path / "out")) == 8


def test_a_killed_run_blocks_no_later_run(tmp_path, faulty):  # noqa: F811
    images.series(tmp_path / "in", 8)
    with held(tmp_path, faulty, "--sigma=1") as first:
        first.process.kill()
        first.process.wait()
        finished = run(arguments(tmp_path, "--sigma=1", "--resume"))
    assert finished.code == 0 and "waiting up to" not in finished.stderr, finished


CONTAINED = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.mark.parametrize("prefix", [(), CONTAINED], ids=["one container", "a container each"])
def test_singletons_without_a_launcher_process_the_list_once(tmp_path, prefix):
    """The environment of these processes does not show that they were started together."""
    if prefix and not may_mount():
        pytest.skip("needs the right to make a namespace")
    images.series(tmp_path / "in", 12)
    command = [*prefix, NIIMPI, *(str(word) for word in arguments(tmp_path, "--sigma=1", "--resume"))]
    env = {"PATH": os.environ["PATH"], "NIIMPI_TEST_FAULT": "slow@0:200"}
    running = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    ends = [(process.communicate(timeout=100)[1], process.returncode) for process in running]
    assert sorted(code for _, code in ends) == [0, 2, 2, 2], ends
    assert all("another run of the same images" in text for text, code in ends if code == 2), ends
    assert len(images.results(tmp_path / "out")) == 12


@pytest.mark.skipif(not may_mount(), reason="needs the right to make a namespace")
def test_a_run_of_another_container_is_known_by_its_heartbeat(tmp_path):
    """Process ids of another namespace are meaningless, so the growth of the journal decides."""
    images.series(tmp_path / "in", 200)
    wait = {"NIIMPI_TEST_WAIT_MS": "8000"}
    slow = {"NIIMPI_TEST_FAULT": "slow@0:300"}
    with start(arguments(tmp_path, "--sigma=1"), env=slow, prefix=CONTAINED) as first:
        wait_for_journal(tmp_path, first)
        finished = run(arguments(tmp_path, "--sigma=1", "--resume"), env=wait)
        assert finished.code == 2 and "another run of the same images" in finished.stderr, finished
        assert "waiting up to 8s" in finished.stderr, finished
        first.process.kill()
        finished = run(arguments(tmp_path, "--sigma=1", "--resume"), env=wait)
        assert finished.code == 0 and "waiting up to" in finished.stderr, finished


@pytest.mark.ranks
@pytest.mark.skipif(not may_mount(), reason="needs the right to mount")
def test_images_of_a_rank_without_the_inputs_go_to_other_ranks(tmp_path):
    images.series(tmp_path / "in", 24)
    report = tmp_path / "report.json"
    words = arguments(tmp_path, "--sigma=1", "--strategy=dynamic", "--report", report)
    # Rank 0 is slow, so that rank 1 gets images, too.
    slow = {"NIIMPI_TEST_FAULT": "slow@0:100"}
    two = ranks_of(words, (hidden_below(tmp_path / "in"), words))
    finished = run(two, ranks=1, report_path=report, env=slow)
    assert finished.code == 0, finished
    assert finished.report["totals"]["done"] == 24
    assert "rank 1 on " in finished.stderr and "gets no more" in finished.stderr, finished
    assert len(images.results(tmp_path / "out")) == 24


@pytest.mark.ranks
def test_an_image_that_no_rank_can_open_fails_once(tmp_path):
    paths = images.series(tmp_path / "in", 12)
    listed = [*paths[:6], tmp_path / "in" / "missing.nii.gz", *paths[6:]]
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in listed))
    report = tmp_path / "report.json"
    words = ["smooth", "--list", tmp_path / "list.txt", "--base", tmp_path / "in"]
    words += ["--output", tmp_path / "out"]
    words += ["--sigma=1", "--strategy=dynamic"]
    finished = run([*words, "--report", report, "--threads=1"], ranks=3, report_path=report)
    totals = finished.report["totals"]
    assert finished.code == 1 and (totals["done"], totals["failed"]) == (12, 1), finished


@pytest.mark.skipif(not may_mount(), reason="needs the right to mount")
@pytest.mark.parametrize("strategy", ["size", "dynamic"])
def test_a_nearly_full_disk_gets_the_images_that_fit(tmp_path, strategy):
    """The largest images come first and do not fit. The small ones do."""
    small = images.series(tmp_path / "in", 8, shape=(30, 30, 30), datatype="float32")
    images.series(tmp_path / "in" / "large", 8, shape=(120, 120, 120), datatype="float32")
    (tmp_path / "out").mkdir()
    script = f'mount -t tmpfs -o size=3m none "{tmp_path}/out" && "$@"; code=$?; '
    script += f'ls -R "{tmp_path}/out"; exit $code'
    words = arguments(tmp_path, "--sigma=1", "--strategy", strategy, "--compression=0")
    finished = run(words, prefix=(*UNSHARE, "sh", "-c", script, "sh"))
    assert finished.code == 1, finished
    assert "trying the smallest images next" in finished.stderr, finished
    assert all(path.name in finished.stdout for path in small), finished


def array_task(number, first, last, count):
    names = {"ID": number, "MIN": first, "MAX": last, "STEP": 1, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": value for name, value in names.items()}


def test_one_task_of_an_array_does_not_process_the_whole_list(tmp_path):
    images.series(tmp_path / "in", 8)
    words = arguments(tmp_path, "--sigma=1", "--resume", "--shard=slurm")
    alone = run(words, env=array_task(7, 7, 7, 1))
    assert alone.code == 0 and "SHARDS=40" in alone.stderr, alone
    words[3] = tmp_path / "shares"
    assert run(words, env=array_task(2, 1, 4, 4)).code == 0
    again = run(words, env=array_task(2, 2, 2, 1))
    assert again.code == 2 and "SHARDS=4 " in again.stderr, again
    assert len(images.results(tmp_path / "shares")) == 2
    beyond = run(words, env=array_task(9, 1, 4, 4))
    assert beyond.code == 2 and "panicked" not in beyond.stderr, beyond
