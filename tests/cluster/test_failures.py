"""Failures on a cluster: state and exit code of the job, and its files."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from jobs import sums, synth

pytestmark = pytest.mark.timeout(500)
# Every image takes this much longer without more CPU time, so that tests can interrupt a run.
SLOW = {"NIIMPI_TEST_FAULT": "slow@0:500"}


def journal(folder):
    """All lines of all journals below an output folder, oldest run first."""
    lines = []
    for path in sorted(Path(folder).glob(".niimpi/journal-*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                pass  # the incomplete last line of a killed rank
    return lines


def done(folder):
    """The index of every image that the journals record as done, once for each record."""
    return [line["index"] for line in journal(folder) if line["event"] == "end" and line["status"] == "done"]


def wait_until_begun(job, folder, images=3):
    """Waits until the job has done some images."""
    limit = time.monotonic() + 60
    while len(done(folder)) < images:
        assert time.monotonic() < limit, f"nothing is done\n{job.states()}\n{job.output()}"
        time.sleep(0.1)


def whole_files_only(folder, expected):
    """Checks that every file under a result's name is complete. Returns their number."""
    found = {name: total for name, total in sums(folder).items() if name.endswith(".nii.gz")}
    different = [name for name, total in found.items() if expected[name] != total]
    assert not different, f"incomplete or wrong: {different}"
    return len(found)


def ranks_of(job):
    """The ranks of a job: task number → process id on this machine."""
    found = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.path.basename(os.readlink(f"/proc/{entry}/exe")) != "niimpi":
                continue
            variables = Path(f"/proc/{entry}/environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        known = dict(line.split("=", 1) for line in variables if "=" in line)
        if known.get("SLURM_JOB_ID") == job.number:
            found[int(known["SLURM_PROCID"])] = int(entry)
    return found


def test_a_corrupt_image_fails_the_job_but_no_other_image(user, data, expected):
    broken = user.folder / "in"
    shutil.copytree(data, broken)
    victim = broken / "sample_7.nii.gz"
    victim.write_bytes(victim.read_bytes()[:-500])
    job = user.submit("mpi.sbatch", DATA=broken)
    job.ends("FAILED", "1:0")
    report = job.report()
    assert (report["state"], report["totals"]["done"], report["totals"]["failed"]) == ("failed", 59, 1)
    (failed,) = [image for image in report["images"] if image["status"] == "failed"]
    assert failed["input"].endswith("sample_7.nii.gz") and failed["stage"] == "read"
    assert sums(user.folder / "out") == {
        name: total for name, total in expected.items() if name != "sample_7.nii.gz"
    }


def test_a_rank_that_is_killed_ends_the_job(user, data, expected):
    """The other ranks end within 15 s because of --kill-on-bad-exit."""
    job = user.submit("mpi.sbatch", DATA=data, **SLOW)
    wait_until_begun(job, user.folder / "out")
    os.kill(ranks_of(job)[3], signal.SIGKILL)
    killed = time.monotonic()
    (record,) = job.wait(60)
    seconds = time.monotonic() - killed
    assert record["JobState"] == "FAILED" and record["ExitCode"] != "0:0"
    print(f"the job ended {seconds:.1f} s after its rank")
    assert 0 < whole_files_only(user.folder / "out", expected) < 60


def test_scancel_leaves_no_half_files(user, data, expected):
    job = user.submit("mpi.sbatch", DATA=data, **SLOW)
    wait_until_begun(job, user.folder / "out")
    user.run("scancel", job.number)
    (record,) = job.wait(60)
    assert record["JobState"] == "CANCELLED"
    assert 0 < whole_files_only(user.folder / "out", expected) < 60
    # After a restart, each image that was in progress at the end is either complete or gone.
    user.submit("mpi.sbatch", DATA=data).ends("COMPLETED")
    assert sums(user.folder / "out") == expected


def test_the_time_limit_drains_and_requeues(user, data, expected):
    """USR1 arrives before the time limit. The images in progress are finished, the job is requeued, and no
    image is done twice."""
    # Slurm checks limits every thirty seconds, so the signal can be that much early: here after 10 to 40 s of
    # a run that takes 45 s.
    job = user.submit(
        "requeue.sbatch", "--time=1", "--signal=USR1@20", DATA=data, NIIMPI_TEST_FAULT="slow@0:3000"
    )
    (record,) = job.ends("COMPLETED", timeout=220).records()
    restarts = int(record["Restarts"])
    assert restarts >= 1, job.output()
    assert sums(user.folder / "out") == expected
    assert sorted(done(user.folder / "out")) == list(range(1, 61)), "an image was done twice, or never"
    assert job.output().count("queued again") == restarts
    first = job.report("-run-0")
    assert first["state"] == "interrupted" and 0 < first["totals"]["done"] < 60
    states = [row["State"] for row in job.accounting("--duplicates", "-X")]
    assert states == ["REQUEUED"] * restarts + ["COMPLETED"]
    # The merged report of the runs is the report of one run.
    reports = [str(path) for path in user.folder.glob(f"logs/*-{job.number}-run-*.json")]
    assert len(reports) == restarts + 1
    user.run("niimpi", "report", "merge", *reports, "--output", "all.json", "--quiet")
    merged = json.loads((user.folder / "all.json").read_text())
    assert (merged["state"], merged["totals"]["done"], merged["totals"]["skipped"]) == ("completed", 60, 0)


def test_requeueing_is_bounded(user, data, expected):
    """After the allowed number of restarts, the job ends with niimpi's exit code. The test sends the
    signal."""
    job = user.submit("requeue.sbatch", DATA=data, MAX_RESTARTS=0, **SLOW)
    wait_until_begun(job, user.folder / "out")
    user.run("scancel", "--signal=USR1", job.number)
    job.ends("FAILED", "75:0", timeout=60)
    assert 0 < whole_files_only(user.folder / "out", expected) < 60


@pytest.mark.parametrize("which", ["first", "second"])
def test_a_node_that_crashes(user, cluster, data, expected, which):
    """A node loses power. Slurm notices the first crash within half a minute; the second is reported to it.
    The job is requeued and completes, and no image is done again."""
    job = user.submit("requeue.sbatch", DATA=data, **SLOW)
    wait_until_begun(job, user.folder / "out")
    (record,) = job.records()
    nodes = user.run("scontrol", "show", "hostnames", record["NodeList"]).stdout.split()
    before = done(user.folder / "out")
    # The script runs on the first node. The second node runs only ranks.
    if which == "first":
        cluster.crash(nodes[0])
    else:
        cluster.crash(nodes[1], tell_slurm=True)
    try:
        (record,) = job.ends("COMPLETED", timeout=200).records()
    finally:
        cluster.up()
    assert int(record["Restarts"]) == 1
    assert sums(user.folder / "out") == expected
    again = done(user.folder / "out")
    assert sorted(set(again)) == list(range(1, 61))
    assert all(again.count(index) == 1 for index in before), "finished images were processed again"


def test_a_node_that_crashes_under_a_job_that_may_not_be_requeued(user, cluster, data, expected):
    job = user.submit("mpi.sbatch", "--no-requeue", DATA=data, **SLOW)
    wait_until_begun(job, user.folder / "out")
    cluster.crash("n3", tell_slurm=True)
    try:
        (record,) = job.wait(90)
    finally:
        cluster.up()
    assert record["JobState"] == "NODE_FAIL"
    whole_files_only(user.folder / "out", expected)


def test_a_step_above_its_memory_is_shown_in_the_report(user, data):
    """The second step hides its limit from niimpi, which would refuse otherwise. Slurm kills it, and the
    accounting shows this."""
    folder = synth(user.folder / "large", 1, "--shape", "400,400,400", "--datatype", "float32")
    user.script(
        "memory.sbatch",
        "#SBATCH --ntasks=1 --mem=120M --output=logs/%x-%j.out",
        f"srun --mpi=pmix niimpi smooth {data} --output out --sigma 2 --limit 3 "
        '--report "logs/$SLURM_JOB_NAME-$SLURM_JOB_ID.json"',
        f"srun --mpi=pmix env -u SLURM_MEM_PER_NODE -u SLURM_MEM_PER_CPU niimpi smooth {folder} --output "
        f"out2 --sigma 9 --threads 1",
    )
    job = user.submit("memory.sbatch")
    (record,) = job.wait(90)
    assert record["JobState"] in ("FAILED", "OUT_OF_MEMORY"), job.output()
    assert not list((user.folder / "out2").glob("*.nii.gz"))
    shown = user.run(
        "niimpi", "report", "show", f"logs/memory.sbatch-{job.number}.json", "--sacct", "--format=json"
    ).stdout
    accounts = {account["job_id"]: account for account in json.loads(shown)["accounts"]}
    assert accounts[f"{job.number}.0"]["state"] == "COMPLETED"
    killed = accounts[f"{job.number}.1"]
    assert killed["state"] in ("FAILED", "OUT_OF_MEMORY") or killed["state"].startswith("CANCELLED"), killed
    assert killed["exit_code"] != "0:0"
    assert killed["max_rss_bytes"] > 120 << 20
