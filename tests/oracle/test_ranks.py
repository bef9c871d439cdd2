"""Bytes and totals are the same for any number of ranks and threads and any strategy."""

import functools
import hashlib
from pathlib import Path

import numpy as np
import pytest

import images
from filters import Filter
from program import launcher, run, smooth

STRATEGIES = ("block", "cyclic", "size", "dynamic")

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Twelve images of mixed sizes, types and forms, in two folders."""
    folder = tmp_path_factory.mktemp("mixed") / "in"
    rng = np.random.default_rng(53)
    kinds = [
        ("uint8", (30, 32, 28), ".nii.gz"),
        ("int16", (9, 8, 7), ".nii.gz"),
        ("float32", (20, 21, 22), ".nii"),
        ("float64", (5, 6, 7), ".nii.gz"),
        ("uint16", (64, 8, 8), ".nii.gz"),
        ("int32", (10, 10, 10, 3), ".nii.gz"),
        ("int8", (11, 1, 13), ".nii"),
        ("uint32", (17, 19, 3), ".nii.gz"),
        ("int64", (6, 6, 6), ".nii.gz"),
        ("float32", (24, 24, 24), ".nii.gz"),
        ("uint8", (2, 2, 2), ".nii.gz"),
    ]
    for number, (datatype, shape, ending) in enumerate(kinds):
        array = images.random_array(rng, shape, datatype)
        if datatype == "int64":
            # Beyond 10¹⁷ the squares of denoising overflow.
            array >>= 10
        images.write(
            folder / "ab"[number % 2] / f"image_{number}{ending}", array, affine=images.diagonal(2, 2, 2)
        )
    images.write_pair(folder / "b" / "image_11.hdr", images.random_array(rng, (8, 8, 8), "int16"))
    return folder


def sums(folder):
    """Relative path → checksum of every file below a folder, without journals."""
    files = [path for path in images.results(folder) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


BROAD = Filter("smooth-1.3", "smooth", ("--sigma=1.3",), ())


@pytest.fixture(scope="module")
def baseline(mixed, tmp_path_factory):
    """A filter → what one rank and one thread write."""

    @functools.cache
    def of(filter):
        output = tmp_path_factory.mktemp("baseline") / "out"
        filter.run(mixed, output, ranks=1, threads=1, expect=filter.thin_code)
        return sums(output)

    return of


def check_report(report, images_expected, ranks, threads):
    """Checks that totals, ranks and images of a report agree."""
    totals, records = report["totals"], report["images"]
    assert report["state"] == "completed"
    assert report["launch"]["ranks"] == ranks and report["launch"]["threads_per_rank"] == threads
    assert totals["images"] == totals["done"] == len(records) == images_expected
    assert totals["failed"] == totals["skipped"] == 0
    assert sorted(rank["rank"] for rank in report["ranks"]) == list(range(ranks))
    assert len({record["input"] for record in records}) == images_expected, "an image is listed twice"
    assert len({record["output"] for record in records}) == images_expected
    assert len({record["index"] for record in records}) == images_expected
    for name in ("images", "done", "failed", "skipped", "bytes_in", "bytes_out"):
        assert sum(rank[name] for rank in report["ranks"]) == totals[name], name
    for name in ("read_s", "filter_s", "write_s"):
        assert sum(rank[name] for rank in report["ranks"]) == pytest.approx(
            totals[name], rel=1e-6, abs=1e-6
        ), name
    for name in ("voxels", "bytes_in", "bytes_out", "read_s", "filter_s", "write_s"):
        assert sum(record[name] for record in records) == pytest.approx(totals[name], rel=1e-6, abs=1e-6), (
            name
        )
    for rank in report["ranks"]:
        own = [record for record in records if record["rank"] == rank["rank"]]
        assert len(own) == rank["images"] == rank["done"]
        assert all(0 <= record["worker"] < threads for record in own)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_bytes_do_not_depend_on_ranks_threads_or_strategy(
    mixed, baseline, tmp_path, ranks, threads, strategy
):
    """Of smoothing; test_every_filter.py has the other filters."""
    finished = BROAD.run(mixed, tmp_path / "out", "--strategy", strategy, ranks=ranks, threads=threads)
    assert len(baseline(BROAD)) == 13, "11 single files and a pair"
    assert sums(tmp_path / "out") == baseline(BROAD)
    check_report(finished.report, 12, ranks, threads)


def test_bytes_do_not_depend_on_the_launcher(mixed, baseline, tmp_path):
    """Without mpirun the program is one rank."""
    finished = smooth(mixed, tmp_path / "out", "--sigma=1.3", ranks=None)
    assert sums(tmp_path / "out") == baseline(BROAD)
    check_report(finished.report, 12, 1, 1)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("count", [1, 3])
def test_more_ranks_than_images(tmp_path, strategy, count):
    images.series(tmp_path / "in", count)
    finished = smooth(
        tmp_path / "in", tmp_path / "out", "--sigma=1", "--strategy", strategy, ranks=4, threads=2
    )
    check_report(finished.report, count, 4, 2)
    assert len(sums(tmp_path / "out")) == count


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_rank_gets_its_share(tmp_path, strategy):
    """Forty equal images on four ranks: fixed shares have ten each; with dynamic, every rank gets some."""
    images.series(tmp_path / "in", 40, datatype="float32")
    # Without the delay, a rank that starts late would find no images left.
    slow = {"NIIMPI_TEST_FAULT": "slow@0:300"} if strategy == "dynamic" else {}
    words = ["--sigma=1", "--strategy", strategy]
    finished = smooth(tmp_path / "in", tmp_path / "out", *words, ranks=4, env=slow)
    shares = sorted(rank["images"] for rank in finished.report["ranks"])
    if strategy == "dynamic":
        assert sum(shares) == 40 and shares[0] >= 1, shares
    elif strategy == "size":
        # The sizes of compressed files differ by a few bytes, so shares may differ by one image.
        assert sum(shares) == 40 and shares[0] >= 9 and shares[-1] <= 11, shares
    else:
        assert shares == [10, 10, 10, 10]


def test_natural_order(tmp_path):
    """sample_2 comes before sample_10. With one rank and one worker, images are processed in this order."""
    images.series(tmp_path / "in", 12)
    finished = smooth(tmp_path / "in", tmp_path / "out", "--sigma=1", "--strategy=block", ranks=1)
    records = sorted(finished.report["images"], key=lambda record: record["index"])
    assert [Path(record["input"]).name for record in records] == [f"sample_{n}.nii.gz" for n in range(1, 13)]


def test_a_list_from_a_file(tmp_path):
    paths = images.series(tmp_path / "in", 6)
    chosen = [paths[4], paths[1], paths[2]]
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in chosen))
    out = tmp_path / "out"
    finished = run(
        [
            "smooth",
            "--list",
            tmp_path / "list.txt",
            "--base",
            tmp_path / "in",
            "--output",
            out,
            "--sigma=1",
            "--report",
            tmp_path / "r.json",
        ],  # fmt: skip
        ranks=2,
        report_path=tmp_path / "r.json",
    )
    assert finished.code == 0, finished
    assert sorted(path.name for path in out.rglob("*.nii.gz")) == sorted(path.name for path in chosen)
    assert finished.report["totals"]["done"] == 3


def test_shards_are_disjoint_and_complete(tmp_path):
    images.series(tmp_path / "in", 10)
    smooth(tmp_path / "in", tmp_path / "whole", "--sigma=1", ranks=2)
    for shard in ("1/3", "2/3", "3/3"):
        # An existing output is an error, so a run would fail if an image were in two shards.
        report = tmp_path / f"{shard[0]}.json"
        smooth(tmp_path / "in", tmp_path / "out", "--sigma=1", "--shard", shard, ranks=2, report=report)
    assert sums(tmp_path / "out") == sums(tmp_path / "whole")


def test_the_first_images_only(tmp_path):
    images.series(tmp_path / "in", 12)
    finished = smooth(tmp_path / "in", tmp_path / "out", "--sigma=1", "--limit=3", ranks=2)
    assert finished.report["totals"]["images"] == 3
    assert sorted(sums(tmp_path / "out")) == ["sample_1.nii.gz", "sample_2.nii.gz", "sample_3.nii.gz"]


def test_resume_processes_missing_images(tmp_path):
    images.series(tmp_path / "in", 8)
    smooth(tmp_path / "in", tmp_path / "out", "--sigma=1", ranks=2)
    before = sums(tmp_path / "out")
    for name in ("sample_2.nii.gz", "sample_7.nii.gz"):
        (tmp_path / "out" / name).unlink()
    again = smooth(
        tmp_path / "in", tmp_path / "out", "--sigma=1", "--resume", ranks=3, report=tmp_path / "again.json"
    )
    assert sums(tmp_path / "out") == before
    assert (again.report["totals"]["done"], again.report["totals"]["skipped"]) == (2, 6)


def test_overwrite_writes_all_again(tmp_path):
    images.series(tmp_path / "in", 4)
    smooth(tmp_path / "in", tmp_path / "out", "--sigma=1", ranks=2)
    before = sums(tmp_path / "out")
    options = ("--sigma=2", "--overwrite")
    finished = smooth(tmp_path / "in", tmp_path / "out", *options, ranks=2, report=tmp_path / "again.json")
    after = sums(tmp_path / "out")
    assert finished.report["totals"]["done"] == 4
    assert after.keys() == before.keys() and all(after[name] != before[name] for name in before)


def test_a_dry_run_writes_nothing(tmp_path):
    images.series(tmp_path / "in", 5)
    finished = run(
        ["smooth", tmp_path / "in", "--output", tmp_path / "out", "--sigma=1", "--dry-run"], ranks=2
    )
    assert finished.code == 0, finished
    assert not (tmp_path / "out").exists()
    assert finished.stdout.strip(), "the list of images must be printed"


def test_names_by_template(tmp_path):
    images.series(tmp_path / "in", 11)
    smooth(tmp_path / "in", tmp_path / "out", "--sigma=1", "--name", "denoised_{index}.nii.gz", ranks=2)
    assert sorted(sums(tmp_path / "out")) == sorted(f"denoised_{n}.nii.gz" for n in range(1, 12))


def test_the_launch_line_is_that_of_the_mpi_under_test():
    assert launcher(3)[1:3] == ["-n", "3"]
