"""The trace of a report, checked against the rules of Chrome's Trace Event Format, which Perfetto imports.
Perfetto's own trace processor is a download at run time, so it is not started here."""

import json
from collections import defaultdict

import numpy as np
import pytest

import images
from program import HAS_RANKS, run, smooth

pytestmark = pytest.mark.timeout(120)

RANKS = 2 if HAS_RANKS else None
METADATA = {
    "process_name": {"name": str},
    "thread_name": {"name": str},
    "process_sort_index": {"sort_index": int},
    "thread_sort_index": {"sort_index": int},
}


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace")
    rng = np.random.default_rng(1)
    for place in range(12):
        images.write(folder / f"in/{place}.nii.gz", images.random_array(rng, (16, 16, 16), "int16"))
    (folder / "in/empty.nii").write_bytes(b"")
    out = folder / "out"
    finished = smooth(folder / "in", out, "--sigma=1", ranks=RANKS, threads=2, sync=True, expect=1)
    shown = run(["report", "show", f"{out}.report.json", "--format", "chrome-trace"])
    assert shown.code == 0, shown
    return finished.report, json.loads(shown.stdout)


def test_every_event_has_the_fields_of_its_phase(traced):
    _, trace = traced
    assert trace["displayTimeUnit"] in ("ms", "ns")
    assert {event["ph"] for event in trace["traceEvents"]} == {"M", "X", "b", "e"}
    for event in trace["traceEvents"]:
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int), event
        if event["ph"] == "M":
            kinds = METADATA[event["name"]]
            assert {name: type(value) for name, value in event["args"].items()} == kinds, event
            continue
        assert event["name"] and event["cat"] and event["ts"] >= 0, event
        assert ("dur" in event) == (event["ph"] == "X") and event.get("dur", 1) > 0, event
        assert ("id" in event) == (event["ph"] in "be"), event


def test_slices_of_a_thread_do_not_overlap(traced):
    """Perfetto drops slices that begin inside of another one and end after it."""
    threads = defaultdict(list)
    for event in traced[1]["traceEvents"]:
        if event["ph"] == "X":
            threads[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert threads
    for slices in threads.values():
        slices.sort()
        assert all(one[1] <= other[0] for one, other in zip(slices, slices[1:]))


def test_asynchronous_slices_are_pairs(traced):
    report, trace = traced
    open_ones = {}
    pairs = 0
    for event in trace["traceEvents"]:
        key = (event["pid"], event.get("cat"), event.get("id"), event["name"])
        if event["ph"] == "b":
            assert key not in open_ones
            open_ones[key] = event["ts"]
        elif event["ph"] == "e":
            assert event["ts"] > open_ones.pop(key)
            pairs += 1
    assert not open_ones and 0 < pairs <= report["totals"]["done"]


def test_ranks_and_workers_have_names(traced):
    report, trace = traced
    named = {(it["name"], it["pid"], it["tid"]) for it in trace["traceEvents"] if it["ph"] == "M"}
    for event in trace["traceEvents"]:
        assert ("process_name", event["pid"], 0) in named
        assert ("thread_name", event["pid"], event["tid"]) in named or event["ph"] == "M"
    assert {pid for name, pid, _ in named if name == "process_name"} == {
        rank["rank"] for rank in report["ranks"]
    }
