"""Every script of slurm/, submitted as it is: it completes, uses what it asked for, and its results are one process's."""

import pytest

from jobs import sums

pytestmark = pytest.mark.timeout(180)


def check(job, user, data, expected, ranks, threads, hosts):
    """The results and the report of a job that did all sixty images."""
    job.ends("COMPLETED", timeout=120)
    assert len(expected) == 60
    assert sums(user.folder / "out") == expected
    report = job.report()
    assert report["state"] == "completed"
    assert report["totals"]["done"] == report["totals"]["images"] == 60
    assert (report["launch"]["ranks"], report["launch"]["threads_per_rank"]) == (ranks, threads)
    assert report["launch"]["nodes"] == hosts
    assert report["launch"]["slurm"]["job_id"] == job.number
    return report


def test_mpi(user, data, expected):
    job = user.submit("mpi.sbatch", DATA=data)
    report = check(job, user, data, expected, ranks=6, threads=1, hosts=["n1", "n2", "n3"])
    assert [rank["host"] for rank in report["ranks"]] == ["n1", "n1", "n2", "n2", "n3", "n3"]
    assert all(rank["images"] > 0 for rank in report["ranks"])


def test_serial(user, data, expected):
    check(user.submit("serial.sbatch", DATA=data), user, data, expected, ranks=1, threads=1, hosts=["n1"])
