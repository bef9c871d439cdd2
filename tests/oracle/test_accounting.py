"""Stage times add up: read + filter + write + idle seconds of a rank equal its threads × elapsed seconds."""

import json

import pytest

from faulty import faulty  # noqa: F401
from program import HAS_RANKS, smooth


def rows(finished):
    return json.loads(finished.report_path.read_text())["ranks"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    from program import run

    folder = tmp_path_factory.mktemp("accounting") / "images"
    finished = run(["synth", str(folder), "--count", "24", "--shape", "60,60,60", "--seed", "1"])
    assert finished.code == 0, finished
    return folder


def check(finished, threads):
    for row in rows(finished):
        whole_s = threads * row["elapsed_s"]
        known_s = row["read_s"] + row["filter_s"] + row["write_s"] + row["idle_s"]
        assert known_s + row["other_s"] == pytest.approx(whole_s, abs=1e-3), row
        # One percent, plus the time for which a thread waits for a CPU between two measurements.
        assert abs(row["other_s"]) <= 0.01 * whole_s + 0.015 * threads, row
        assert row["idle_s"] >= 0


@pytest.mark.parametrize("strategy", ["size", "dynamic"])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    "ranks", [1, pytest.param(2, marks=pytest.mark.skipif(not HAS_RANKS, reason="no MPI"))]
)
@pytest.mark.parametrize("sync_ms", [0, 60])
def test_stages_and_idle_time_add_up_to_a_ranks_time(
    images, faulty, tmp_path, ranks, threads, strategy, sync_ms
):
    """Also if workers wait for the disk: their waiting is idle time, the time of the disk is `publish_s`."""
    env = faulty(f"fsync:{sync_ms}ms:0:/") if sync_ms else {}
    options = {"ranks": ranks if HAS_RANKS else None, "threads": threads, "env": env}
    finished = smooth(images, tmp_path / "out", "--sigma=1", "--strategy", strategy, sync=True, **options)
    check(finished, threads)
    published_s = sum(row["publish_s"] for row in rows(finished))
    assert published_s >= 24 * sync_ms / 1000
    written_s = sum(row["write_s"] for row in rows(finished))
    whole_s = sum(threads * row["elapsed_s"] for row in rows(finished))
    assert written_s <= whole_s, "writing must not include the wait for the disk"


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_threads_that_share_an_image_are_accounted_for(images, tmp_path, limit):
    finished = smooth(images, tmp_path / "out", "--sigma=1", "--limit", limit, threads=4)
    check(finished, 4)


def test_publishing_without_sync_is_writing(images, tmp_path):
    finished = smooth(images, tmp_path / "out", "--sigma=1")
    assert [row["publish_s"] for row in rows(finished)] == [0.0]
    check(finished, 1)
