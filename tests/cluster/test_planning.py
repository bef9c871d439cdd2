"""`niimpi plan` and `niimpi scaling` with Slurm: a planned job stays within its request, and a study has a
row for each job."""

import csv
import json
import re
import time

import jobs

OPTIONS = ["--sigma", "2", "--no-sync"]


def test_a_planned_job_completes_inside_its_request(user, data):
    niimpi = jobs.NIIMPI
    words = [
        "--ranks",
        "2,4",
        "--nodes",
        "1-2",
        "--output",
        "smoothed",
        "--write",
        "job.sbatch",
        "--json",
        "plan.json",
    ]
    planned = user.run(niimpi, "plan", data, *OPTIONS, *words, timeout=120)
    assert "Recommended:" in planned.stdout
    request = json.loads((user.folder / "plan.json").read_text())["request"]

    job = user.submit("job.sbatch")
    job.ends("COMPLETED", timeout=120)
    records = job.records()
    assert records[0]["NumNodes"] == str(request["nodes"])
    # Accounting records the end a moment after the queue.
    rows = wait_for_accounting(user, job)
    elapsed, limit_min = int(rows[0]["ElapsedRaw"]), int(rows[0]["TimelimitRaw"])
    assert limit_min == request["time_min"] and elapsed <= limit_min * 60
    rank_kib = request["mem_per_cpu_mib"] * request["cpus_per_task"] * 1024
    measured = [int(row["MaxRSS"].rstrip("K")) for row in rows if row["MaxRSS"].rstrip("K").isdigit()]
    assert all(kib <= rank_kib for kib in measured), rows

    checked = user.run(niimpi, "plan", "--check", "job.report.json")
    assert "Time and memory are inside the request." in checked.stdout, checked
    assert "state COMPLETED" in checked.stdout and f"job {job.number}" in checked.stdout
    assert len(list((user.folder / "smoothed").rglob("*.nii.gz"))) == 60


def wait_for_accounting(user, job):
    columns = "JobID,State,ElapsedRaw,TimelimitRaw,MaxRSS"
    for _ in range(150):
        text = user.run("sacct", "-n", "-P", "--units=K", "-j", job.number, "-o", columns).stdout
        rows = [dict(zip(columns.split(","), line.split("|"))) for line in text.splitlines()]
        if rows and rows[0]["State"] == "COMPLETED" and rows[0]["TimelimitRaw"]:
            return rows
        time.sleep(0.2)
    raise AssertionError(f"accounting does not know the end of job {job.number}: {text}")


def test_a_request_beyond_the_partition_is_refused(user, data):
    beyond = [(["--nodes", "9", "--ranks", "9"], "nodes are more than the 3")]
    beyond += [(["--cpus-per-node", "64", "--ranks", "64"], "64 CPUs per node")]
    for words, reason in beyond:
        finished = user.run(jobs.NIIMPI, "plan", data, *OPTIONS, *words, timeout=120, check=False)
        assert finished.returncode == 2 and reason in finished.stderr, finished


def test_an_unknown_partition_is_refused(user, data):
    finished = user.run(jobs.NIIMPI, "plan", data, *OPTIONS, "--partition", "nowhere", check=False)
    assert finished.returncode == 2 and "nowhere" in finished.stderr, finished


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_study_runs_as_jobs_and_is_collected_later(user, data):
    niimpi = jobs.NIIMPI
    words = [
        "--sizes",
        "10,60",
        "--ranks",
        "1,2",
        "--threads",
        "1",
        "--nodes",
        "1,2",
        "--repeat",
        "1",
        "--via",
        "slurm",
    ]
    words += ["--output", "study", "--time-limit", "5m", "--mem-per-cpu", "200", "--no-wait"]
    submitted = user.run(niimpi, "scaling", data, *OPTIONS, *words, timeout=120)
    numbers = re.findall(r"job (\d+):", submitted.stderr)
    assert len(numbers) == 6 and "--collect study" in submitted.stdout
    for number in numbers:
        jobs.Job(user, number).ends("COMPLETED", timeout=180)
    for _ in range(20):
        collected = user.run(niimpi, "scaling", "--collect", "study", check=False)
        if collected.returncode == 0:
            break
        assert collected.returncode == 75, collected
    assert collected.returncode == 0, collected
    serial = rows(user.folder / "study" / "serial.csv")
    assert [row["tasks"] for row in serial] == ["10", "60"]
    ranks = rows(user.folder / "study" / "multi-process.csv")
    layouts = [("1", "1"), ("2", "1"), ("2", "2")]
    assert {(row["procs"], row["nodes"], row["tasks"]) for row in ranks} == {
        (*layout, tasks) for layout in layouts for tasks in ("10", "60")
    }
    for row in serial + ranks:
        assert row["state"] == "COMPLETED" and row["jobID"] in numbers and float(row["mem_bytes"]) > 5e6
    assert not (user.folder / "study" / "outputs" / "ranks-1_threads-1_nodes-1_images-10_repeat-1").exists()


def test_a_job_that_takes_too_long_is_a_row_with_its_state(user, data):
    """The jobs of the study are cancelled while they wait for nodes of another job."""
    script = user.script("busy.sbatch", "#SBATCH --nodes=3 --exclusive --time=5", "sleep 300")
    busy = user.submit(script)
    busy.wait(30, until={"RUNNING"})
    words = [
        "--sizes",
        "10",
        "--ranks",
        "1",
        "--threads",
        "1",
        "--repeat",
        "1",
        "--via",
        "slurm",
        "--output",
        "study",
    ]
    submitted = user.run(jobs.NIIMPI, "scaling", data, *OPTIONS, *words, "--no-wait", timeout=60)
    (number,) = re.findall(r"job (\d+):", submitted.stderr)
    waiting = user.run(jobs.NIIMPI, "scaling", "--collect", "study", check=False)
    assert waiting.returncode == 75 and "1 job pending or running" in waiting.stderr, waiting
    user.run("scancel", number, busy.number)
    jobs.Job(user, number).wait(60)
    for _ in range(20):
        collected = user.run(jobs.NIIMPI, "scaling", "--collect", "study", check=False)
        if collected.returncode != 75:
            break
    assert collected.returncode == 1, collected
    assert rows(user.folder / "study" / "serial.csv")[0]["state"] == "CANCELLED"
