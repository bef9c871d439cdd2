"""Fixtures of the cluster tests: a cluster for the session, a user's folder for each test, sample images."""

import os
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import jobs  # noqa: E402
from slurm_cluster import Shape, SlurmCluster  # noqa: E402

# A different folder than that of `make cluster`, whose cluster may be running at the same time.
STATE = os.environ.get("CLUSTER_STATE", "/var/tmp/niimpi-cluster-test")


def pytest_configure():
    if not os.access(jobs.NIIMPI, os.X_OK):
        raise pytest.UsageError("set NIIMPI_BIN to the program, for example target/release/niimpi")


@pytest.fixture(scope="session")
def cluster():
    """A new cluster of three nodes, removed at the end of the session."""
    cluster = SlurmCluster(STATE)
    cluster.down()
    # If the program is below /tmp, the nodes must see its folder.
    cluster.up(Shape(max_array_size=8, shared=[os.path.dirname(jobs.NIIMPI)]))
    yield cluster
    cluster.down()


@pytest.fixture
def user(cluster, request):
    """A user with an empty project folder."""
    # sbatch interprets a % in the path of --output.
    return jobs.User(cluster, cluster.state / "home" / re.sub(r"\W+", "-", request.node.name))


@pytest.fixture(scope="session")
def data(cluster):
    """Sixty small images."""
    return jobs.synth(cluster.state / "home" / "data", 60, "--shape", "32,36,32")


@pytest.fixture(scope="session")
def expected(cluster, data):
    """The results of one process."""
    return jobs.filter_here(data, cluster.state / "home" / "expected", "smooth", "--sigma", 2)
