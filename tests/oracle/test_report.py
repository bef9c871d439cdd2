"""The report as a table on standard output, and as JSON with the types of schema niimpi-report/2."""

import datetime
import re

import pytest

import images
from program import HAS_RANKS, run, smooth

RANKS = 2 if HAS_RANKS else None

NUMBER = (int, float)
TEXT = str
WHOLE = int

TOTALS = {
    "images": WHOLE, "done": WHOLE, "failed": WHOLE, "skipped": WHOLE, "read_s": NUMBER, "filter_s": NUMBER,
    "write_s": NUMBER, "cpu_s": NUMBER, "cpu_efficiency": NUMBER, "max_rss_bytes": WHOLE, "bytes_in": WHOLE,
    "bytes_out": WHOLE, "voxels": WHOLE, "imbalance": NUMBER, "images_per_s": NUMBER,
}  # fmt: skip
RANK = {
    "rank": WHOLE, "host": TEXT, "images": WHOLE, "done": WHOLE, "failed": WHOLE, "skipped": WHOLE,
    "read_s": NUMBER, "filter_s": NUMBER, "write_s": NUMBER, "idle_s": NUMBER, "elapsed_s": NUMBER,
    "cpu_s": NUMBER, "cpu_efficiency": NUMBER, "max_rss_bytes": WHOLE, "bytes_in": WHOLE, "bytes_out": WHOLE,
}  # fmt: skip
IMAGE = {
    "index": WHOLE, "input": TEXT, "output": TEXT, "rank": WHOLE, "worker": WHOLE, "status": TEXT,
    "stage": (TEXT, type(None)), "error": (TEXT, type(None)), "start_s": NUMBER, "read_s": NUMBER,
    "filter_s": NUMBER, "write_s": NUMBER, "voxels": WHOLE, "bytes_in": WHOLE, "bytes_out": WHOLE,
}  # fmt: skip
LAUNCH = {
    "ranks": WHOLE,
    "threads_per_rank": WHOLE,
    "nodes": list,
    "mpi": (TEXT, type(None)),
    "slurm": (dict, type(None)),
}
FILTER = {
    "name": TEXT, "sigma_vox": (list, type(None)), "fwhm_mm": (list, type(None)), "boundary": TEXT,
    "truncate": NUMBER, "radius_vox": (list, type(None)),
}  # fmt: skip
WHOLE_REPORT = {
    "schema": TEXT, "version": TEXT, "command": list, "state": TEXT, "started": TEXT, "elapsed_s": NUMBER,
    "launch": dict, "filter": dict, "strategy": TEXT, "totals": dict, "ranks": list, "images": list,
    "unreadable_folders": WHOLE,
}  # fmt: skip


def check(record, schema, where):
    """Checks that every key exists with its type. Other keys are allowed, because the schema may grow."""
    for key, kinds in schema.items():
        assert key in record, f"{where} lacks {key}"
        value = record[key]
        assert isinstance(value, kinds) and not isinstance(value, bool), f"{where}.{key} is {value!r}"
        if kinds in (NUMBER, WHOLE):
            assert value >= 0, f"{where}.{key} is {value!r}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run over nine good images and a broken one."""
    folder = tmp_path_factory.mktemp("report")
    images.series(folder / "in", 9, shape=(40, 41, 42))
    (folder / "in" / "sample_10.nii.gz").write_bytes(b"")
    return smooth(
        folder / "in", folder / "out", "--sigma=1,2,1.5", "--truncate=3", ranks=RANKS, threads=2, expect=1
    )


def test_every_key_has_its_type(finished):
    report = finished.report
    check(report, WHOLE_REPORT, "report")
    check(report["launch"], LAUNCH, "launch")
    check(report["filter"], FILTER, "filter")
    check(report["totals"], TOTALS, "totals")
    for rank in report["ranks"]:
        check(rank, RANK, "ranks[]")
    for record in report["images"]:
        check(record, IMAGE, "images[]")


def test_cpu_efficiency_is_of_the_run_alone(tmp_path):
    """CPU seconds / (elapsed × CPUs). The start of MPI does not count."""
    images.series(tmp_path / "in", 1, shape=(40, 41, 42))
    report = smooth(tmp_path / "in", tmp_path / "out", "--sigma=2", ranks=RANKS, threads=1).report
    for row in report["ranks"]:
        given_s = row["elapsed_s"] * row["cpus"]
        assert row["cpu_efficiency"] == pytest.approx(row["cpu_s"] / given_s, abs=1e-3), row
    # At most 1, but the two clocks are read milliseconds apart.
    assert all(0 < row["cpu_efficiency"] < 3 for row in [report["totals"], *report["ranks"]]), report


def test_what_was_run(finished):
    report = finished.report
    assert report["schema"] == "niimpi-report/2"
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", report["version"])
    assert "smooth" in report["command"] and "--sigma=1,2,1.5" in report["command"]
    started = datetime.datetime.fromisoformat(report["started"])
    assert started.tzinfo is not None, "RFC 3339 requires an offset"
    age = (datetime.datetime.now(datetime.timezone.utc) - started).total_seconds()
    assert -5 < age < 600
    assert report["strategy"] == "size"
    assert report["launch"]["ranks"] == (RANKS or 1) and report["launch"]["threads_per_rank"] == 2
    assert len(report["launch"]["nodes"]) == 1
    assert report["launch"]["slurm"] is None
    assert report["filter"]["name"] == "gaussian"
    assert report["filter"]["sigma_vox"] == [1.0, 2.0, 1.5]
    assert (report["filter"]["boundary"], report["filter"]["truncate"]) == ("reflect", 3.0)
    assert report["filter"]["radius_vox"] == [3, 6, 5]


def test_figures_are_plausible(finished):
    report = finished.report
    totals = report["totals"]
    assert (totals["images"], totals["done"], totals["failed"]) == (10, 9, 1)
    assert totals["voxels"] == 9 * 40 * 41 * 42
    assert 0 < report["elapsed_s"] <= finished.seconds
    assert totals["imbalance"] >= 1 - 1e-9
    assert totals["images_per_s"] == pytest.approx(totals["done"] / report["elapsed_s"], rel=0.5)
    assert 1e6 < totals["max_rss_bytes"] < 2e9
    for rank in report["ranks"]:
        assert rank["elapsed_s"] <= report["elapsed_s"] * 1.05 + 0.1
        assert rank["idle_s"] <= rank["elapsed_s"] * 2 + 0.1
    for record in report["images"]:
        assert (
            record["start_s"] + record["read_s"] + record["filter_s"] + record["write_s"] <= finished.seconds
        )
        if record["status"] == "done":
            assert record["error"] is None and record["voxels"] == 40 * 41 * 42
            assert record["read_s"] > 0 and record["filter_s"] > 0 and record["write_s"] > 0
            assert record["bytes_in"] > 0 and record["bytes_out"] > 0
        else:
            assert (record["status"], record["stage"]) == ("failed", "read") and record["error"]


def test_the_table(finished):
    """Columns per rank: host, images, failed, read, filter, write, idle, elapsed, CPU efficiency, peak
    memory. Below them are sums."""
    text = finished.stdout.lower()
    for column in ("rank", "host", "images", "failed", "read", "filter", "write", "idle", "elapsed", "cpu"):
        assert column in text, f"no column {column}\n{finished}"
    assert re.search("mem|rss|peak", text), f"no column for memory\n{finished}"
    for row in ("total", "mean", "max", "imbalance", "images/s"):
        assert row in text, f"no {row}\n{finished}"
    host = finished.report["ranks"][0]["host"]
    rows = [line for line in finished.stdout.splitlines() if host in line]
    assert len(rows) >= (RANKS or 1), f"every rank must have a row\n{finished}"
    assert "\x1b" not in finished.stdout, "no colours without a terminal"


def test_the_failed_image_is_one_line_on_standard_error(finished):
    lines = [line for line in finished.stderr.splitlines() if "sample_10.nii.gz" in line]
    assert len(lines) == 1, finished
    assert "empty" in lines[0], lines


def test_the_table_is_printed_once(tmp_path):
    images.series(tmp_path / "in", 3)
    args = ["smooth", tmp_path / "in", "--output", tmp_path / "out", "--sigma=1"]
    finished = run(args, ranks=RANKS)
    assert finished.code == 0, finished
    assert finished.stdout.lower().count("images/s") == 1, finished
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"], "no report was requested"


@pytest.mark.parametrize(
    "options",
    [
        ["--report", "r.txt", "--report-table"],
        ["--report", "r.json", "--report-html", "./r.json"],
        ["--report", "r.json", "--report-html", "link/r.json"],
        ["--report", "r.json", "--report-csv", "--report-html", "r.images.csv"],
        ["--report", "out"],
    ],
)
def test_no_file_of_a_report_replaces_another(tmp_path, options):
    images.series(tmp_path / "in", 1)
    (tmp_path / "link").symlink_to(".")
    refused = run(["smooth", "in", "--output", "out", "--sigma=1", *options], cwd=tmp_path)
    assert refused.code == 2 and "give each its own name" in refused.stderr, refused
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "link"]


def test_a_merge_replaces_its_earlier_result_but_no_other_report(tmp_path):
    images.series(tmp_path / "in", 2)
    for shard in (1, 2):
        options = ["--sigma=1", f"--shard={shard}/2"]
        smooth(tmp_path / "in", tmp_path / "out", *options, report=tmp_path / f"{shard}.json")
    before = (tmp_path / "1.json").read_bytes()
    refused = run(["report", "merge", "1.json", "2.json", "--output", "1.json"], cwd=tmp_path)
    assert refused.code == 2 and "1.json: is also one of the reports" in refused.stderr, refused
    assert (tmp_path / "1.json").read_bytes() == before
    for files in (["1.json", "2.json"], ["1.json", "2.json", "all.json"]):
        merged = run(["report", "merge", *files, "--output", "all.json"], cwd=tmp_path)
        assert merged.code == 0 and "2 of 2 images done" in merged.stdout, merged


@pytest.mark.parametrize("cval", ["inf", "-inf", "nan"])
def test_a_report_with_an_infinite_cval_is_read_again(tmp_path, cval):
    images.series(tmp_path / "in", 1)
    options = ["--sigma=1", "--boundary=constant", f"--cval={cval}"]
    report = smooth(tmp_path / "in", tmp_path / "out", *options).report
    assert report["filter"]["cval"].lower() == cval
    shown = run(["report", "show", tmp_path / "out.report.json"])
    assert shown.code == 0 and "1 of 1 images done" in shown.stdout, shown
