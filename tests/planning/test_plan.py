"""End-to-end tests of `niimpi plan`: pilot, reports, studies, JSON, batch script, refusals and --check."""

import csv
import errno
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from conftest import synth
from faulty import faulty  # noqa: F401
from program import HAS_RANKS, MPI, run, smooth

OPTIONS = ["--sigma", "1", "--no-sync"]
RANKS = "1,2" if HAS_RANKS else "1"


def plan(*words, expect=0, timeout=120, cwd=None, env=None):
    finished = run([str(word) for word in ["plan", *words]], timeout=timeout, cwd=cwd, env=env)
    assert finished.code == expect, finished
    return finished


@pytest.fixture(scope="module")
def piloted(data, tmp_path_factory):
    """A plan from a pilot, and its JSON."""
    folder = tmp_path_factory.mktemp("plan")
    words = [
        "--pilot",
        "10",
        "--images",
        "4000",
        "--nodes",
        "1-2",
        "--cpus-per-node",
        "2",
        "--json",
        "plan.json",
    ]
    words += ["--csv", "plan.csv", "--write", "job.sbatch", "--output", "out/smoothed"]
    finished = plan(data, *OPTIONS, *words, cwd=folder)
    return folder, finished, json.loads((folder / "plan.json").read_text())


def test_the_json_follows_its_schema(piloted):
    _, _, document = piloted
    assert document["schema"] == "niimpi-plan/1"
    assert document["images"] == 4000
    assert document["dominated_by"] in ("read", "filter", "write", "publish")
    found = [(c["nodes"], c["ranks"], c["threads"]) for c in document["configurations"]]
    assert found == [(1, 1, 1), (1, 2, 1), (2, 2, 1), (2, 4, 1)]
    for configuration in document["configurations"]:
        assert (
            0 < configuration["elapsed_low_s"] < configuration["elapsed_s"] < configuration["elapsed_high_s"]
        )
        assert 5e6 < configuration["rss_per_rank_bytes"] < 1e9
        assert configuration["rss_per_node_bytes"] >= configuration["rss_per_rank_bytes"]
        assert 0 < configuration["efficiency"] <= 1.05
        cpus = configuration["ranks"] * configuration["threads"]
        assert configuration["core_hours"] == pytest.approx(cpus * configuration["elapsed_s"] / 3600)
    assert sum(configuration["recommended"] for configuration in document["configurations"]) == 1


def test_the_text_contains_the_recommendation_and_its_reasons(piloted):
    _, finished, document = piloted
    for words in (
        "Recommended:",
        "What dominates:",
        "core hours",
        "--mem-per-cpu=",
        "4000 images planned for",
    ):
        assert words in finished.stdout, finished
    assert "All measurements come from one node" in finished.stdout


def test_nothing_of_the_pilot_remains(piloted):
    folder, _, _ = piloted
    assert [path.name for path in (folder / "out").iterdir()] == []


def test_the_script_requests_what_the_plan_recommends(piloted):
    folder, _, document = piloted
    text = (folder / "job.sbatch").read_text()
    request = document["request"]
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, flags=re.M))
    assert asked["nodes"] == str(request["nodes"])
    assert asked["ntasks-per-node"] == str(request["tasks_per_node"])
    assert asked["cpus-per-task"] == str(request["cpus_per_task"])
    assert asked["mem-per-cpu"] == f"{request['mem_per_cpu_mib']}M"
    chosen = next(c for c in document["configurations"] if c["recommended"])
    hours, minutes, _ = map(int, asked["time"].split(":"))
    assert (hours * 60 + minutes) * 60 >= chosen["elapsed_high_s"] * 1.25
    assert request["mem_per_cpu_mib"] * request["cpus_per_task"] * 2**20 >= chosen["rss_per_rank_bytes"] * 1.2
    last = text.splitlines()[-1]
    assert last.startswith("srun --mpi=") and "--kill-on-bad-exit=1" in last and "--sigma=1" in last
    assert "25 %" in text, "the script names the margin"
    subprocess.run(["bash", "-n", folder / "job.sbatch"], check=True)
    assert json.loads((folder / "job.plan.json").read_text())["report"] == str(folder / "job.report.json")


def test_csv_and_table_have_every_layout(piloted):
    folder, finished, document = piloted
    with open(folder / "plan.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = [(int(row["nodes"]), int(row["ranks"]), int(row["threads"])) for row in rows]
    assert found == [(c["nodes"], c["ranks"], c["threads"]) for c in document["configurations"]]
    for row, configuration in zip(rows, document["configurations"]):
        assert float(row["time_s"]) == pytest.approx(configuration["elapsed_s"] + configuration["launch_s"])


def test_thousands_of_ranks_are_planned(data, reports, tmp_path):
    """Without --nodes, the plan uses as many nodes as the ranks need."""
    ranks = [2**step for step in range(13)]
    words = [
        "--images",
        "4000",
        "--cpus-per-node",
        "24",
        "--ranks",
        ",".join(map(str, ranks)),
        "--json",
        tmp_path / "p.json",
    ]
    plan(data, *OPTIONS, "--from", *reports, *words)
    found = json.loads((tmp_path / "p.json").read_text())["configurations"]
    assert [(c["nodes"], c["ranks"]) for c in found] == [(1 if r <= 24 else r // 16, r) for r in ranks]
    assert found[-1]["imbalance"] > found[0]["imbalance"] == 1, "4,096 ranks have 4,000 images"


@pytest.fixture(scope="module")
def reports(data, tmp_path_factory):
    """Three reports of 20 images each."""
    folder = tmp_path_factory.mktemp("reports")
    found = []
    for place in range(3):
        finished = smooth(data, folder / f"out_{place}", "--sigma=1", "--limit=20")
        found.append(finished.report_path)
    return found


def test_earlier_reports_serve_as_measurements(data, reports, tmp_path):
    """The interval contains twice the time of recorded runs with half the images."""
    recorded = []
    for place, path in enumerate(reports):
        report = json.loads(path.read_text())
        slept = 0.0
        for image in report["images"]:
            # Every image takes 10 ms, as on a machine without variation. Reports of earlier versions have no
            # end.
            image.pop("end_s", None)
            image.update(start_s=0.5 + slept, read_s=0.002, filter_s=0.004, write_s=0.004, publish_s=0.0)
            slept += 0.01 if image["status"] == "done" else 0.0
        report["elapsed_s"] = 0.5 + slept
        recorded.append(tmp_path / f"{place}.json")
        recorded[-1].write_text(json.dumps(report))
    finished = plan(
        data, *OPTIONS, "--from", *recorded, "--ranks", "1", "--json", tmp_path / "p.json", cwd=tmp_path
    )
    assert "pilot" not in finished.stderr
    predicted = json.loads((tmp_path / "p.json").read_text())["configurations"][0]
    assert predicted["elapsed_s"] == pytest.approx(0.5 + 40 * 0.01, rel=0.02)
    assert predicted["elapsed_low_s"] < 0.9 < predicted["elapsed_high_s"]
    measured = max(json.loads(path.read_text())["totals"]["max_rss_bytes"] for path in reports)
    assert measured <= predicted["rss_per_rank_bytes"] <= measured * 1.15


def test_a_study_serves_as_measurements(data, tmp_path):
    study = tmp_path / "study"
    words = [
        "scaling",
        data,
        "--output",
        study,
        "--sizes",
        "10,20",
        "--ranks",
        RANKS,
        "--threads",
        "1",
        "--repeat",
        "2",
    ]
    assert run([str(word) for word in [*words, *OPTIONS]], timeout=120).code == 0
    finished = plan(
        data,
        *OPTIONS,
        "--from",
        study,
        "--json",
        tmp_path / "p.json",
        "--ranks",
        RANKS,
        "--cpus-per-node",
        "2",
    )
    document = json.loads((tmp_path / "p.json").read_text())
    assert document["images"] == 40
    # The study has measured the launching time.
    assert 0 < document["configurations"][0]["launch_s"] < 30
    assert "planned for" in finished.stdout


@pytest.fixture
def in_memory(tmp_path):
    """A folder in memory if there is room, else on disk."""
    roomy = os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 1 << 29
    below = "/dev/shm" if roomy else tmp_path
    with tempfile.TemporaryDirectory(prefix="niimpi-test-", dir=below) as folder:
        yield Path(folder)


@pytest.mark.mpi_library
@pytest.mark.parametrize("nan", ["propagate", "ignore"])
def test_memory_of_a_mixture_of_sizes_and_types_is_planned(mixed, tmp_path, nan):
    """Memory does not depend on the machine; `make validate-plan` compares times."""
    options = [*OPTIONS, "--nan", nan]
    plan(mixed, *options, "--pilot", "20", "--ranks", RANKS, "--json", tmp_path / "p.json", cwd=tmp_path)
    for predicted in json.loads((tmp_path / "p.json").read_text())["configurations"]:
        ranks = predicted["ranks"] if HAS_RANKS else None
        out = tmp_path / f"out_{predicted['ranks']}"
        actual = smooth(mixed, out, "--sigma=1", "--nan", nan, ranks=ranks).report
        rss = actual["totals"]["max_rss_bytes"]
        assert rss <= predicted["rss_per_rank_bytes"] <= rss * 1.15


@pytest.mark.mpi_library
@pytest.mark.parametrize("qc", [[], ["--qc"]], ids=["", "qc"])
def test_memory_of_a_long_list_is_planned(in_memory, qc):
    """With many small images, the list takes most of rank 0's memory. MPI's buffers and, when resuming, the
    journals fit into the margin of the request."""
    count = 20_000
    images = synth(in_memory / "images", count, "6,6,6")
    options = [*OPTIONS, *qc, "--pilot", "20", "--ranks", RANKS, "--json", in_memory / "p.json"]
    plan(images, *options, cwd=in_memory)
    document = json.loads((in_memory / "p.json").read_text())
    for predicted in document["configurations"]:
        ranks, rss = predicted["ranks"], predicted["rss_per_rank_bytes"]
        out = in_memory / f"out_{ranks}"
        options = {"ranks": ranks if HAS_RANKS else None, "timeout": 120}
        first = smooth(images, out, "--sigma=1", *qc, **options).report["totals"]
        again = smooth(images, out, "--sigma=1", "--resume", *qc, **options).report["totals"]
        assert (first["done"], again["skipped"]) == (count, count)
        if ranks == 1:
            assert first["max_rss_bytes"] <= rss <= first["max_rss_bytes"] * 1.2
        # The script of a plan requests at least this.
        requested = max(rss * 1.2, rss + (12 << 20))
        assert max(first["max_rss_bytes"], again["max_rss_bytes"]) <= requested, predicted
        # MPICH itself takes 60 MiB more than Open MPI.
        own = rss - (60 << 20 if MPI == "mpich" else 0)
        assert 0.2 * own < predicted["list_bytes"] < 0.6 * rss


def test_a_pilot_repeats_small_images(data, tmp_path):
    """Runs repeat small images until they have worked long enough."""
    work = tmp_path / "work" / "deeper"
    work.mkdir(parents=True)
    (tmp_path / "linked").symlink_to(data)
    for images, output in [("../../linked", "../smoothed"), (data, "out")]:
        finished = plan(
            images,
            *OPTIONS,
            "--pilot",
            "8",
            "--ranks",
            RANKS,
            "--cpus-per-node",
            "2",
            "--output",
            output,
            cwd=work,
        )
        measured = re.search(r"(\d+) measured (\d+) times in (\d+) runs", finished.stdout)
        distinct, times, runs = map(int, measured.groups())
        assert distinct == 8 and times > distinct * runs


def test_a_damaged_image_of_a_rare_kind_does_not_prevent_the_plan(data, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(data, images)
    synth(tmp_path / "rare", 1, "40,44,40", "float32")
    whole = next((tmp_path / "rare").glob("*.nii.gz")).read_bytes()
    (images / "rare.nii.gz").write_bytes(whole[: len(whole) // 2])
    finished = plan(
        images, *OPTIONS, "--pilot", "20", "--ranks", "1", "--json", tmp_path / "p.json", cwd=tmp_path
    )
    assert "rare.nii.gz failed when it was measured" in finished.stdout, finished
    assert "1 of the images are float32; all of that kind that were measured failed" in finished.stdout, (
        finished
    )
    assert json.loads((tmp_path / "p.json").read_text())["images"] == 40


@pytest.mark.mpi_library
@pytest.mark.ranks
def test_without_mpirun_a_pilot_reports_that_it_ran_one_rank(data, tmp_path):
    finished = plan(data, *OPTIONS, "--pilot", "8", cwd=tmp_path, env={"PATH": "/nowhere"})
    assert "the pilot ran one rank only" in finished.stdout and "MPI_Init" not in finished.stderr, finished


def test_a_pilot_without_room_is_refused(data, faulty, tmp_path):
    env = faulty(f"write:{errno.ENOSPC}:0:/images/.niimpi-")
    finished = plan(
        data,
        *OPTIONS,
        "--pilot",
        "30",
        "--ranks",
        "1",
        "--cpus-per-node",
        "1",
        cwd=tmp_path,
        env=env,
        expect=2,
    )
    assert re.search(r"wrote 0 of 30 results \(.*the disk is full", finished.stderr), finished


def test_too_few_or_unsuitable_measurements_are_refused(data, mixed, reports, tmp_path):
    one = smooth(data, tmp_path / "one", "--sigma=1", "--limit=1").report_path
    other = smooth(data, tmp_path / "other", "--sigma=2", "--limit=10").report_path
    broken = tmp_path / "broken"
    broken.mkdir()
    for place in range(6):
        (broken / f"b_{place}.nii").write_bytes(b"no image")
    failed = smooth(broken, tmp_path / "failed", "--sigma=1", expect=1).report_path
    elsewhere = json.loads(reports[0].read_text())
    for rank in elsewhere["ranks"]:
        rank["cpu_model"] = "another CPU"
    (tmp_path / "elsewhere.json").write_text(json.dumps(elsewhere))
    old = json.loads(reports[0].read_text())
    old["schema"] = "niimpi-report/1"
    (tmp_path / "old.json").write_text(json.dumps(old))
    for sources, words in [
        ([one], "1 measured image cannot show"),
        ([other], "measured with other options"),
        ([failed], "6 of 6 measured images failed"),
        ([reports[0], tmp_path / "elsewhere.json"], "machines with different CPUs"),
        ([reports[0], tmp_path / "old.json"], "of different versions"),
        ([tmp_path], "a folder without a study"),
    ]:
        finished = plan(data, *OPTIONS, "--from", *sources, expect=2)
        assert words in finished.stderr and finished.stdout == "", finished
    unsynced = plan(data, "--sigma", "1", "--from", *reports, expect=2)
    assert "--no-sync" in unsynced.stderr
    # Measurements of 8-bit images do not apply to 16-bit images.
    kinds = plan(mixed, *OPTIONS, "--from", *reports, expect=2)
    assert "int16" in kinds.stderr and "none of that kind was measured" in kinds.stderr
    few = plan(data, *OPTIONS, "--pilot", "2", expect=2)
    assert "needs at least 5" in few.stderr


def test_a_single_report_gives_a_wide_interval(data, reports, tmp_path):
    widths = []
    for sources in ([reports[0]], reports):
        plan(data, *OPTIONS, "--from", *sources, "--ranks", "1", "--json", tmp_path / "p.json")
        predicted = json.loads((tmp_path / "p.json").read_text())["configurations"][0]
        widths.append(predicted["elapsed_high_s"] / predicted["elapsed_low_s"])
    assert widths[0] > 1.8, "one run does not show how runs differ"


def test_layouts_beyond_the_limits_are_refused(data, reports):
    for limit, words in [
        (["--max-time", "00:00:01", "--images", "100000"], "--max-time"),
        (["--mem-per-node", "5M"], "MiB per node"),
        (["--ranks", "64", "--nodes", "1", "--cpus-per-node", "2"], "64 ranks × 1 thread do not fit"),
    ]:
        finished = plan(data, *OPTIONS, "--from", *reports, *limit, expect=2)
        assert "no layout is possible" in finished.stderr and words in finished.stderr, finished


def test_only_files_of_earlier_plans_are_replaced(data, reports, tmp_path):
    for option, name, lost in [
        ("--json", "plan.json", "plan.json"),
        ("--csv", "plan.csv", "plan.csv"),
        ("--write", "job.sbatch", "job.sbatch"),
        ("--write", "job.sbatch", "job.plan.json"),
    ]:
        words = [data, *OPTIONS, "--from", *reports, "--ranks", "1", option, name]
        (tmp_path / lost).write_text("#!/bin/bash\necho mine\n")
        refused = plan(*words, cwd=tmp_path, expect=2)
        assert f"{option}: " in refused.stderr and "not replaced" in refused.stderr, refused
        assert (tmp_path / lost).read_text() == "#!/bin/bash\necho mine\n"
        (tmp_path / lost).unlink()
        # Files of an earlier plan are replaced.
        plan(*words, cwd=tmp_path)
        plan(*words, cwd=tmp_path)


def test_a_run_is_checked_against_its_plan(data, tmp_path):
    plan(data, *OPTIONS, "--ranks", "1", "--write", "job.sbatch", "--output", "smoothed", cwd=tmp_path)
    # The command of the script, without srun.
    last = (tmp_path / "job.sbatch").read_text().splitlines()[-1]
    command = last.partition("--kill-on-bad-exit=1 ")[2].split()
    finished = run(command[1:], cwd=tmp_path)
    assert finished.code == 0, finished
    checked = plan("--check", tmp_path / "job.report.json")
    assert "Time and memory are inside the request." in checked.stdout
    assert "A request that would have fitted: --nodes=1 --ntasks-per-node=1" in checked.stdout
    assert "40 of 40 images done" in checked.stdout
    # A run that took longer than requested.
    report = json.loads((tmp_path / "job.report.json").read_text())
    report["elapsed_s"] = 1e6
    (tmp_path / "job.report.json").write_text(json.dumps(report))
    late = plan("--check", tmp_path / "job.report.json", expect=1)
    assert "The time exceeded the request." in late.stdout
