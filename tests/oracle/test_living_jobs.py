"""A run on another machine is alive as long as its Slurm job. The tests replace `squeue`."""

import json
import os

import pytest

import images
from program import run
from test_agreement import arguments
from test_resume import journals

pytestmark = pytest.mark.timeout(120)

HOUR_S = 3600
FORGOTTEN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
DOWN = "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"

TASK = {"SLURM_ARRAY_JOB_ID": 70, "SLURM_ARRAY_TASK_ID": 3}


def squeue(folder, jobs="", steps=""):
    """An environment with a squeue that runs these shell commands for queries of jobs and of steps."""
    tools = folder / "tools"
    tools.mkdir()
    asked = f'case "$*" in *--steps*) {steps or "exit 9"};; *) {jobs or "exit 9"};; esac'
    (tools / "squeue").write_text(f'#!/bin/sh\necho "$*" >> {folder}/asked\n{asked}\n')
    (tools / "squeue").chmod(0o755)
    return {"PATH": f"{tools}:{os.environ['PATH']}"}


def left_open(folder, job, silent_s, **slurm):
    """Makes the output of a run in a Slurm job on another machine, with a last line `silent_s` seconds
    ago."""
    images.series(folder / "in", 4)
    env = {"SLURM_JOB_ID": job, **slurm}
    assert run(arguments(folder, "--sigma=1", "--limit=2"), env=env).code == 0
    (journal,) = journals(folder / "out")
    first, *lines = journal.read_text().splitlines()
    first = json.loads(first)
    assert first["slurm_job"] == str(job)
    first["process"]["boot_id"] = "another machine"
    # The same images as in the later run.
    again = run(arguments(folder, "--sigma=1", "--resume"), env=env)
    assert again.code == 0
    (whole,) = set(journals(folder / "out")) - {journal}
    first["list_digest"] = json.loads(whole.read_text().splitlines()[0])["list_digest"]
    whole.unlink()
    assert '"close"' in lines[-1]
    journal.write_text("".join(f"{line}\n" for line in [json.dumps(first), *lines[:-1]]))
    at = journal.stat().st_mtime - silent_s
    os.utime(journal, (at, at))


def begin(folder, env):
    return run(arguments(folder, "--sigma=1", "--resume", "--overwrite"), env=env)


def check(finished, lives, waits=False):
    assert finished.code == (2 if lives else 0), finished
    assert ("another run of the same images is in progress" in finished.stderr) == lives, finished
    assert waits is None or ("waiting up to" in finished.stderr) == waits, finished


@pytest.mark.parametrize("silent_s", [0, HOUR_S])
@pytest.mark.parametrize("own", [{}, {"SLURM_JOB_ID": 78}], ids=["outside", "another job"])
@pytest.mark.parametrize(
    "jobs, lives",
    [
        ("echo 77 RUNNING", True),
        ("echo 77 SUSPENDED", True),
        ("echo 77 PENDING", False),
        (FORGOTTEN, False),
        ("true", False),
        # The last task of the array has the number of the array. It has ended.
        ("echo 80 RUNNING", False),
    ],
)
def test_the_job_alone_decides(tmp_path, jobs, lives, own, silent_s):
    """The age of the journal does not matter, because a suspended job writes nothing."""
    left_open(tmp_path, 77, silent_s)
    check(begin(tmp_path, squeue(tmp_path, jobs) | own), lives)
    assert "--jobs 77" in (tmp_path / "asked").read_text()


@pytest.mark.parametrize("jobs", [DOWN, "echo 77 COMPLETING"])
@pytest.mark.parametrize("silent_s", [0, HOUR_S])
def test_the_journal_decides_where_slurm_does_not(tmp_path, jobs, silent_s):
    left_open(tmp_path, 77, silent_s)
    # niimpi watches a recently written journal until it is old, here for at most one second.
    wait = {} if silent_s else {"NIIMPI_TEST_WAIT_MS": 1_000}
    check(begin(tmp_path, squeue(tmp_path, jobs) | wait), lives=False, waits=False if silent_s else None)


@pytest.mark.parametrize(
    "own, steps, lives",
    [
        ({"SLURM_RESTART_COUNT": 2, "SLURM_STEP_ID": 0}, "", False),
        ({"SLURM_RESTART_COUNT": 1, "SLURM_STEP_ID": 1}, "echo 77.batch; echo 77.0; echo 77.1", True),
        ({"SLURM_RESTART_COUNT": 1, "SLURM_STEP_ID": 1}, "echo 77.batch; echo 77.1", False),
        ({"SLURM_RESTART_COUNT": 1, "SLURM_STEP_ID": 1}, "echo 77.batch; echo 77.10", False),
        ({"SLURM_RESTART_COUNT": 1, "SLURM_STEP_ID": 1, **TASK}, "echo 70_3.batch; echo 70_3.0", True),
        ({"SLURM_RESTART_COUNT": 1, "SLURM_STEP_ID": 1, **TASK}, "echo 70_3.1; echo 70_4.0", False),
    ],
    ids=[
        "requeued since",
        "another step",
        "the step has ended",
        "a step of a like number",
        "another step of an array's task",
        "the same step of another task",
    ],
)
@pytest.mark.parametrize("silent_s", [0, HOUR_S])
def test_steps_and_restarts_of_the_same_job(tmp_path, own, steps, lives, silent_s):
    left_open(tmp_path, 77, silent_s, SLURM_RESTART_COUNT=1, SLURM_STEP_ID=0)
    env = squeue(tmp_path, jobs="echo 77 RUNNING", steps=steps) | {"SLURM_JOB_ID": 77} | own
    check(begin(tmp_path, env), lives)


def test_slurm_is_asked_once_about_all_other_shards(tmp_path):
    """The tasks of a large array start together. Disjoint shards are no rivals; they are only counted."""
    left_open(tmp_path, 77, 0)
    (journal,) = journals(tmp_path / "out")
    first, *lines = journal.read_text().splitlines()
    journal.unlink()
    for number in (2, 3, 4):
        name = f"other{number}"
        other = json.loads(first) | {"run": name, "slurm_job": str(76 + number), "shard": f"{number}/4"}
        text = "".join(f"{line}\n" for line in [json.dumps(other), *lines[:-1]])
        journal.with_name(f"journal-{name}-00000.jsonl").write_text(text)
    env = squeue(tmp_path, jobs="echo 78 RUNNING; echo 80 RUNNING")
    finished = run(arguments(tmp_path, "--sigma=1", "--resume", "--overwrite", "--shard=1/4"), env=env)
    assert finished.code == 0, finished
    assert "2 other runs are in progress in this output folder, of other images" in finished.stderr, finished
    (asked,) = (tmp_path / "asked").read_text().splitlines()
    assert "--jobs 78,79,80" in asked
