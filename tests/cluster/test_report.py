"""`niimpi report show` on a job's report: every format, Slurm's accounting, and the ranks' series."""

import csv
import json

import pytest

from jobs import User


@pytest.fixture(scope="module")
def job(cluster, data):
    """A run on two nodes with --sample, slow enough for Slurm to sample it, too."""
    user = User(cluster, cluster.state / "home" / "report")
    user.edit("mpi.sbatch", "--resume", "--resume --sample 0.5")
    job = user.submit("mpi.sbatch", "--nodes=2", DATA=data, NIIMPI_TEST_FAULT="slow@0:150")
    return job.ends("COMPLETED")


@pytest.fixture
def show(job):
    path = f"logs/niimpi-mpi-{job.number}.json"

    def show(*options, check=True):
        return job.user.run("niimpi", "report", "show", path, *options, check=check)

    return show


def test_the_table_is_the_jobs_own(job, show):
    table = show().stdout
    assert table in job.output()
    assert "60 of 60 images done" in table and table.count("\n|") == 9


def test_json_is_the_report(job, show):
    assert json.loads(show("--format=json").stdout) == job.report()


def test_csv_has_a_row_a_rank_or_an_image(job, show):
    ranks = list(csv.DictReader(show("--format=csv").stdout.splitlines()))
    assert [row["host"] for row in ranks] == ["n1", "n1", "n2", "n2"]
    assert sum(int(row["done"]) for row in ranks) == 60
    images = list(csv.DictReader(show("--format=csv", "--rows=images").stdout.splitlines()))
    assert [int(row["index"]) for row in images] == list(range(1, 61))


def test_markdown_is_a_table(show):
    lines = show("--format=markdown").stdout.splitlines()
    assert lines[0].startswith("| rank | host") and set(lines[1]) <= set("|-: ")
    assert sum(line.startswith("|") for line in lines) == 2 + 4 + 3
    assert any(line.startswith("60 of 60 images done") for line in lines)


def test_accounts_are_those_of_sacct(job, show):
    """State, time, CPU, memory and nodes of every step, as in sacct."""
    rows = job.accounting(fields="JobID,State,ExitCode,NodeList,ElapsedRaw")
    shown = json.loads(show("--sacct", "--format=json").stdout)["accounts"]
    assert [account["job_id"] for account in shown] == [row["JobID"] for row in rows]
    for account, row in zip(shown, rows):
        assert (account["state"], account["exit_code"]) == (row["State"], row["ExitCode"])
        assert account["node_list"] == row["NodeList"]
    (step,) = [account for account in shown if account["job_id"] == f"{job.number}.0"]
    assert (step["state"], step["name"], step["node_list"]) == ("COMPLETED", "niimpi", "n[1-2]")
    (own,) = [row for row in rows if row["JobID"] == step["job_id"]]
    assert step["elapsed_s"] == int(own["ElapsedRaw"]) and step["cpu_s"] > 0
    assert 5 << 20 < step["max_rss_bytes"] < 1 << 30
    table = show("--sacct").stdout.splitlines()
    rows = [line.strip("|").split() for line in table]
    (row,) = [words for words in rows if words[:1] == [f"{job.number}.0"]]
    assert row[1:4] == ["niimpi", "COMPLETED", "0:0"] and row[-1] == "n[1-2]"


def test_the_series_grows_to_the_totals(job, show):
    series = json.loads(show("--series", "--format=json").stdout)["series"]
    report = job.report()
    for rank in range(4):
        own = [sample for sample in series if sample["rank"] == rank]
        assert len(own) >= 2, "expected a sample every half second and one at the end"
        for earlier, later in zip(own, own[1:]):
            assert later["t_s"] >= earlier["t_s"] and later["done"] >= earlier["done"]
            assert later["cpu_s"] >= earlier["cpu_s"] and later["bytes_out"] >= earlier["bytes_out"]
        row = report["ranks"][rank]
        last = own[-1]
        assert (last["host"], last["done"], last["bytes_in"]) == (row["host"], row["done"], row["bytes_in"])
        assert 1 << 20 < last["rss_bytes"] <= row["max_rss_bytes"]
    table = show("--series").stdout
    assert len(table.split("\n\n")) == 2 and "CPUs" in table
    rows = list(csv.DictReader(show("--series", "--format=csv").stdout.splitlines()))
    assert [(int(row["rank"]), int(row["done"])) for row in rows] == [
        (sample["rank"], sample["done"]) for sample in series
    ]
    accounts = list(csv.DictReader(show("--sacct", "--format=csv").stdout.splitlines()))
    assert f"{job.number}.0" in [account["job_id"] for account in accounts]


def test_without_samples_the_message_names_the_option(user, data):
    job = user.submit("serial.sbatch", DATA=data).ends("COMPLETED")
    shown = user.run(
        "niimpi", "report", "show", f"logs/niimpi-serial-{job.number}.json", "--series", check=False
    )
    assert shown.returncode == 1 and "60 of 60 images done" in shown.stdout
    assert "--sample SECONDS" in shown.stderr


def test_a_cluster_without_accounting_gives_a_message(job, show, cluster):
    """The same Slurm with a configuration without accounting."""
    lines = (cluster.state / "conf" / "slurm.conf").read_text().splitlines()
    other = job.user.folder / "no-accounting.conf"
    other.write_text("\n".join(line for line in lines if not line.startswith("Accounting")) + "\n")
    words = ["niimpi", "report", "show", f"logs/niimpi-mpi-{job.number}.json", "--sacct"]
    shown = job.user.run(*words, check=False, SLURM_CONF=other)
    assert shown.returncode == 1 and "60 of 60 images done" in shown.stdout
    assert "this cluster has no accounting" in shown.stderr


def test_a_run_outside_slurm_has_no_accounts(user, data):
    user.run("niimpi", "smooth", data, "--output", "out", "--sigma=2", "--report", "here.json")
    shown = user.run("niimpi", "report", "show", "here.json", "--sacct", check=False)
    assert shown.returncode == 1 and "no Slurm job" in shown.stderr
