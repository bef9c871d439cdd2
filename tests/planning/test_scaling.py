"""End-to-end tests of `niimpi scaling`: runs, tables, plots, continuing a study, and failing runs."""

import csv
import json
import os
import re
import signal
import stat
import time
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

from program import HAS_RANKS, run, start

RANKS = "1,2" if HAS_RANKS else "1"
OPTIONS = ["--sigma", "1", "--no-sync"]


def scaling(data, study, *options, ranks=RANKS, sizes="1,4,8", expect=0, timeout=120, **others):
    words = [
        "scaling",
        data,
        "--output",
        study,
        "--sizes",
        sizes,
        "--ranks",
        ranks,
        "--threads",
        "1,2",
        *OPTIONS,
        *options,
    ]
    finished = run([str(word) for word in words], timeout=timeout, **others)
    assert finished.code == expect, finished
    return finished


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def study(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scaling") / "study"
    finished = scaling(data, folder, "--repeat", "2")
    return folder, finished


@pytest.mark.mpi_library
def test_every_configuration_is_a_row(study):
    folder, finished = study
    serial = rows(folder / "serial.csv")
    assert [row["tasks"] for row in serial] == ["1", "4", "8"]
    assert [row["threads"] for row in rows(folder / "multi-threaded.csv")] == ["1"] * 3 + ["2"] * 3
    if HAS_RANKS:
        assert [row["procs"] for row in rows(folder / "multi-process.csv")] == ["1"] * 3 + ["2"] * 3
        both = rows(folder / "multi-process-and-threaded.csv")
        assert {(row["procs"], row["threads"]) for row in both} == {("2", "2")}
    for row in serial:
        assert (row["state"], row["repeats"], row["jobID"]) == ("COMPLETED", "2", "local")
    for title in ("Serial", "Multi-threaded"):
        assert title in finished.stdout
    assert re.search(
        r"run 1 of \d+: 1 image, 1 rank × 1 thread, repeat 1; time left unknown", finished.stderr
    )
    assert re.search(r"about \S+ left", finished.stderr)


@pytest.mark.mpi_library
def test_the_figures_are_those_of_the_reports(study):
    folder, _ = study
    for row in rows(folder / "serial.csv"):
        name = f"ranks-1_threads-1_nodes-1_images-{row['tasks']}_repeat-{{}}.json"
        reports = [json.loads((folder / "reports" / name.format(repeat)).read_text()) for repeat in (1, 2)]
        totals = [report["totals"] for report in reports]

        def mean(key):
            return sum(total[key] for total in totals) / 2

        assert float(row["rtime_s"]) == pytest.approx(mean("read_s"), abs=2e-6)
        assert float(row["ptime_s"]) == pytest.approx(mean("filter_s"), abs=2e-6)
        assert float(row["wtime_s"]) == pytest.approx(mean("write_s"), abs=2e-6)
        assert float(row["mem_bytes"]) == pytest.approx(mean("max_rss_bytes"), abs=1)
        assert float(row["wtime/ptime"]) == pytest.approx(mean("write_s") / mean("filter_s"), rel=1e-3)
        assert float(row["ptime/task_s"]) == pytest.approx(mean("filter_s") / int(row["tasks"]), abs=2e-6)
        # The time includes launching.
        assert float(row["time_s"]) > sum(report["elapsed_s"] for report in reports) / 2


def test_markdown_tables_are_rectangular(study):
    folder, _ = study
    text = (folder / "tables.md").read_text()
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.M)
    assert len(tables) == (4 if HAS_RANKS else 2)
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
        assert len(table.splitlines()) in (5, 8), (
            "a head, a rule, and three numbers of images per configuration"
        )


def test_the_plots_are_svg(study):
    folder, _ = study
    for name in ("time", "memory", "speed-up", "efficiency", "shares"):
        root = xml.parse(folder / f"{name}.svg").getroot()
        assert root.tag.endswith("svg"), name
    assert "Amdahl" in (folder / "speed-up.svg").read_text()
    assert "ideal" in (folder / "efficiency.svg").read_text()


def test_results_are_removed_unless_kept(study, data, tmp_path):
    folder, _ = study
    assert not (folder / "outputs").exists()
    kept = tmp_path / "kept"
    scaling(data, kept, "--repeat", "1", "--keep", ranks="1", sizes="2")
    outputs = kept / "outputs" / "ranks-1_threads-1_nodes-1_images-2_repeat-1"
    assert sorted(path.name for path in outputs.glob("*.nii.gz")) == ["sample_1.nii.gz", "sample_2.nii.gz"]


def test_completed_runs_are_not_repeated(data, tmp_path):
    study = tmp_path / "study"
    scaling(data, study, "--repeat", "1", ranks="1", sizes="1,2")
    reports = {path: path.stat().st_mtime_ns for path in (study / "reports").iterdir()}
    assert len(reports) == 4
    removed = sorted(reports)[0]
    removed.unlink()
    again = scaling(data, study, "--repeat", "1", ranks="1", sizes="1,2,3")
    assert "3 of 6 runs are already done" in again.stderr
    for path, written in reports.items():
        assert path.exists() and (path == removed or path.stat().st_mtime_ns == written)


def test_a_folder_with_another_study_is_refused(data, tmp_path):
    study = tmp_path / "study"
    scaling(data, study, "--repeat", "1", ranks="1", sizes="1")
    words = [
        "scaling",
        data,
        "--output",
        study,
        "--sizes",
        "1",
        "--ranks",
        "1",
        "--threads",
        "1",
        "--sigma",
        "3",
    ]
    finished = run([str(word) for word in words])
    assert finished.code == 2 and "differs in the options" in finished.stderr, finished


def test_a_failed_run_is_a_row_and_the_study_continues(tmp_path, data):
    folder = tmp_path / "data"
    folder.mkdir()
    for place in (1, 2, 3):
        (folder / f"sample_{place}.nii.gz").symlink_to(data / f"sample_{place}.nii.gz")
    (folder / "sample_2.nii.gz").unlink()
    (folder / "sample_2.nii.gz").write_bytes(b"no image")
    study = tmp_path / "study"
    scaling(folder, study, "--repeat", "1", ranks="1", sizes="1,2,3", expect=1)
    found = {row["tasks"]: row for row in rows(study / "serial.csv")}
    assert [found[tasks]["state"] for tasks in ("1", "2", "3")] == ["COMPLETED", "FAILED", "FAILED"]
    assert found["2"]["time_s"] == "" and found["1"]["time_s"] != ""


@pytest.mark.mpi_library
@pytest.mark.ranks
def test_a_run_that_takes_too_long_is_ended_with_all_its_ranks(data, tmp_path):
    """A launcher that never ends simulates a run that hangs."""
    mpirun = tmp_path / "mpirun"
    mpirun.write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then exec "$REAL_MPIRUN" --version; fi\nexec sleep 1000\n'
    )
    mpirun.chmod(mpirun.stat().st_mode | stat.S_IXUSR)
    from program import MPIRUN

    study = tmp_path / "study"
    words = ["--repeat", "1", "--time-limit", "1s", "--mpirun", mpirun]
    scaling(data, study, *words, ranks="2", sizes="1", expect=1, env={"REAL_MPIRUN": MPIRUN})
    assert {row["state"] for row in rows(study / "multi-process.csv")} == {"TIMEOUT"}


def test_a_stopped_study_can_be_continued(data, tmp_path):
    study = tmp_path / "study"
    words = [
        "scaling",
        data,
        "--output",
        study,
        "--sizes",
        "40",
        "--ranks",
        "1",
        "--threads",
        "1",
        "--repeat",
        "40",
        *OPTIONS,
    ]
    words = [str(word) for word in words]
    with start(words) as running:
        deadline = time.monotonic() + 60
        while len(list((study / "runs").glob("*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(running.process.pid, signal.SIGINT)
        finished = running.wait(60)
    assert finished.code == 75, finished
    records = [json.loads(path.read_text()) for path in (study / "runs").iterdir()]
    assert 2 <= len(records) < 40
    assert {record["state"] for record in records} == {"COMPLETED"}
    assert rows(study / "serial.csv")[0]["repeats"] == str(len(records))


@pytest.mark.mpi_library
@pytest.mark.ranks
def test_the_run_of_a_killed_study_ends(data, tmp_path):
    """After SIGKILL the study cannot end its run, so the kernel sends the launcher a signal."""
    study = tmp_path / "study"
    words = [
        "scaling",
        data,
        "--output",
        study,
        "--sizes",
        "40",
        "--ranks",
        "2",
        "--threads",
        "1",
        "--repeat",
        "1",
        *OPTIONS,
    ]

    def alive():
        # The command lines of the ranks and of their launcher contain the study's folder.
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line, state = (
                    path.read_bytes(),
                    (path.parent / "stat").read_text().rsplit(")", 1)[1].split()[0],
                )
            except OSError:
                continue
            if os.fsencode(study) in line and state != "Z":
                found.append(line)
        return found

    # An image takes ten seconds, so no run ends by itself during the test.
    with start([str(word) for word in words], env={"NIIMPI_TEST_FAULT": "slow@0:10000"}) as running:
        deadline = time.monotonic() + 60
        while len(alive()) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(alive()) >= 4, alive()
        os.kill(running.process.pid, signal.SIGKILL)
        deadline = time.monotonic() + 40
        while alive() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not alive()


def test_jobs_that_slurm_refuses_are_rows_and_are_submitted_again(data, tmp_path):
    """The study continues after a refusal and submits the configuration again later."""
    study, tools = tmp_path / "study", tmp_path / "bin"
    tools.mkdir()
    sbatch = tools / "sbatch"

    def fake(script):
        sbatch.write_text("#!/bin/sh\n" + script)
        sbatch.chmod(0o755)

    env = {"PATH": f"{tools}:{os.environ['PATH']}"}
    words = [
        "scaling",
        data,
        "--output",
        study,
        "--sizes",
        "1,2",
        "--ranks",
        "1",
        "--threads",
        "1",
        "--repeat",
        "1",
    ]
    words = [str(word) for word in [*words, "--via", "slurm", *OPTIONS]]
    reason = "sbatch: error: Batch job submission failed: Requested node configuration is not available"
    fake(f"echo '{reason}' >&2; exit 1\n")
    refused = run(words, env=env)
    assert refused.code == 1 and refused.stderr.count(reason) == 2, refused
    assert [(row["state"], row["message"]) for row in rows(study / "serial.csv")] == [("FAILED", reason)] * 2
    assert reason in (study / "tables.md").read_text()
    fake("echo 12\n")
    again = run([*words, "--no-wait"], env=env)
    assert again.code == 0 and again.stderr.count("job 12:") == 2, again


def test_wrong_usage_is_refused(data, tmp_path):
    study = tmp_path / "study"
    for words, text in [
        (["--sizes", "1000"], "there are only 40 images"),
        (["--sizes", "0"], "whole numbers from 1"),
        (["--sizes", "1", "--nodes", "2"], "--via slurm"),
        (["--sizes", "1", "--ranks", "1,50000", "--threads", "3"], "are 150000 workers"),
    ]:
        finished = run([str(word) for word in ["scaling", data, "--output", study, *OPTIONS, *words]])
        assert finished.code == 2 and text in finished.stderr, finished
    finished = run(["scaling", "--collect", str(tmp_path)])
    assert finished.code == 2 and "study.json" in finished.stderr, finished
