"""Ranks agree before they work, and runs that would disturb each other are refused."""

import os
import subprocess

import pytest

import images
from program import NIIMPI, run

pytestmark = [pytest.mark.timeout(120)]

UNSHARE = ("unshare", "--mount", "--propagation", "private")


def ranks_of(first, second):
    """The words that start one rank with the first arguments and one with the second."""
    words = [str(word) for word in first] + [":", "-n", "1", *second[0], NIIMPI]
    return words + [str(word) for word in second[1]]


def arguments(folder, *options):
    return ["smooth", folder / "in", "--output", folder / "out", "--threads=1", "--no-sync", *options]


DIFFERENCES = {
    "sigma": (["--sigma=1"], ["--sigma=2"], "sigma is "),
    "boundary": (["--sigma=1"], ["--sigma=1", "--boundary=wrap"], "boundary is "),
    "strategy": (["--sigma=1"], ["--sigma=1", "--strategy=dynamic"], "--strategy is size on rank 0 and dynamic on rank 1"),
    "dry run": (["--sigma=1"], ["--sigma=1", "--dry-run"], "--dry-run is false on rank 0 and true on rank 1"),
    "shard": (["--sigma=1"], ["--sigma=1", "--shard=1/2"], "--shard is not given on rank 0 and 1/2 on rank 1"),
    "resume": (["--sigma=1"], ["--sigma=1", "--resume"], "existing results"),
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
    for second, said in ((other_output, "--output is "), (other_input, "the input is "), (verify, "the command is ")):
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
    """Words before a program that then sees an empty folder there."""
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
