"""The test cluster itself: start, a second `up`, restart of a crashed node, and complete removal."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slurm_cluster import HERE

pytestmark = pytest.mark.timeout(200)


def command(state, *words, check=True):
    """Runs the command tests/cluster/cluster as a user would."""
    env = {**os.environ, "CLUSTER_STATE": str(state)}
    finished = subprocess.run(
        [sys.executable, HERE / "cluster", *words],
        env=env,
        text=True,
        capture_output=True,
        timeout=120,
        cwd="/",
    )
    if check:
        assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished


def processes_of(state):
    """Processes of the cluster in this folder: their command line or environment contains the folder."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        if int(entry) == os.getpid():
            continue
        try:
            text = Path(f"/proc/{entry}/cmdline").read_bytes() + Path(f"/proc/{entry}/environ").read_bytes()
            running = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            continue
        if running and str(state).encode() in text:
            found.append(int(entry))
    return found


@pytest.fixture
def state(cluster):
    """A folder for a second cluster, which is independent of the session's cluster."""
    folder = cluster.state.with_name(cluster.state.name + "-2")
    yield folder
    command(folder, "down", check=False)


def test_up_play_crash_and_down(state):
    began = time.monotonic()
    command(state, "up")
    seconds = time.monotonic() - began
    print(f"up after {seconds:.1f} s")
    assert "all running" in command(state, "up").stdout
    hosts = command(state, "run", "srun", "--nodes=3", "hostname").stdout.split()
    assert sorted(hosts) == ["n1", "n2", "n3"]
    assert command(state, "run", "--node", "n2", "hostname").stdout.strip() == "n2"
    assert "n3" in command(state, "status").stdout

    command(state, "crash", "n2", "--tell")
    assert "down" in command(state, "run", "sinfo", "-h", "-n", "n2", "-o", "%T").stdout
    refused = command(state, "run", "--node", "n2", "hostname", check=False)
    assert refused.returncode != 0 and "n2 is down" in refused.stderr
    assert "machines: n2" in command(state, "up").stdout
    assert len(command(state, "run", "srun", "--nodes=3", "hostname").stdout.split()) == 3

    other_size = command(state, "up", "--nodes", "2", check=False)
    assert other_size.returncode != 0 and "another size" in other_size.stderr

    assert processes_of(state)
    command(state, "down")
    assert processes_of(state) == []
    assert [path.name for path in state.parent.glob(state.name + "*")] == []

    # Another start, with another size.
    command(state, "up", "--nodes", "1")
    assert command(state, "run", "srun", "hostname").stdout.strip() == "n1"


def test_without_a_cluster_the_message_contains_the_command_to_start_one(state):
    for words in (["run", "squeue"], ["crash", "n1"], ["status"]):
        finished = command(state, *words, check=False)
        assert finished.returncode != 0 and "cluster up" in finished.stderr, (words, finished.stderr)
