"""An array of shards and its merged report: the same bytes and totals as one run."""

import json
import subprocess

import pytest

from jobs import NIIMPI, environment, sums

pytestmark = pytest.mark.timeout(240)
COUNTS = ("images", "done", "failed", "skipped", "bytes_in", "bytes_out", "voxels")


@pytest.fixture(scope="module")
def whole(cluster, data):
    """The report of one run over all images."""
    path = cluster.state / "home" / "whole.json"
    words = [
        NIIMPI,
        "smooth",
        str(data),
        "--output",
        str(path.with_suffix("")),
        "--sigma",
        "2",
        "--report",
        str(path),
        "-q",
    ]
    subprocess.run(words, check=True, timeout=120, env=environment())
    return json.loads(path.read_text())


def check_merged(user, expected, whole, shards):
    assert sums(user.folder / "out") == expected
    merged = json.loads((user.folder / "logs" / "all.json").read_text())
    assert merged["state"] == "completed"
    for name in COUNTS:
        assert merged["totals"][name] == whole["totals"][name], name
    assert merged["shard"] == {"numbers": list(range(1, shards + 1)), "count": shards}
    assert merged["launch"]["ranks"] == len(merged["ranks"]) == shards
    told = [
        {key: image[key] for key in ("index", "input", "status", "voxels", "bytes_in", "bytes_out")}
        for image in merged["images"]
    ]
    assert told == [{key: image[key] for key in told[0]} for image in whole["images"]]
    for name in ("read_s", "filter_s", "write_s"):
        assert sum(image[name] for image in merged["images"]) == pytest.approx(merged["totals"][name])
    return merged


def submit_merge(user, *arrays):
    numbers = ":".join(array.number for array in arrays)
    return user.submit("merge.sbatch", f"--dependency=afterany:{numbers}", "--kill-on-invalid-dep=yes")


@pytest.mark.parametrize("array, shards", [("1-4", 4), ("0-6%2", 7)])
def test_an_array_and_its_merge_are_one_run(user, data, expected, whole, array, shards):
    job = user.submit("array.sbatch", f"--array={array}", DATA=data)
    merge = submit_merge(user, job)
    job.ends("COMPLETED", timeout=120)
    merge.ends("COMPLETED")
    merged = check_merged(user, expected, whole, shards)
    assert merged["launch"]["slurm"]["job_id"] == job.number


def test_more_shards_than_an_array_may_have(user, data, expected, whole):
    """This cluster limits array indices to below 8, so ten shards need two arrays."""
    refused = user.run("sbatch", "--array=1-10", "array.sbatch", check=False)
    assert refused.returncode != 0 and "array" in refused.stderr
    first = user.submit("array.sbatch", "--array=1-6", DATA=data, SHARDS=10)
    second = user.submit("array.sbatch", "--array=1-4", DATA=data, SHARDS=10, SHARDS_BEFORE=6)
    merge = submit_merge(user, first, second)
    first.ends("COMPLETED", timeout=120)
    second.ends("COMPLETED", timeout=120)
    merge.ends("COMPLETED")
    check_merged(user, expected, whole, 10)


def test_a_lost_shard_is_named(user, data):
    """One task never runs. The merge still reports the others and exits with the code of an interrupted
    run."""
    job = user.submit("array.sbatch", "--array=1,3", DATA=data, SHARDS=3)
    merge = submit_merge(user, job)
    job.ends("COMPLETED")
    merge.ends("FAILED", "75:0")
    assert "shard 2 of 3 has no report;" in merge.output()
    assert json.loads((user.folder / "logs" / "all.json").read_text())["state"] == "interrupted"
    user.submit("array.sbatch", "--array=2", DATA=data, SHARDS=3).ends("COMPLETED")
    user.submit("merge.sbatch").ends("COMPLETED")
