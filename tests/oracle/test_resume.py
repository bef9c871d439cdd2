"""Resuming: what the journals vouch for is kept, everything else is done again, and nothing is done twice."""

import json
import os
import random
import shutil
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

import images
from program import HAS_RANKS, run, smooth
from test_ranks import sums

pytestmark = pytest.mark.timeout(180)

RANKS = 2 if HAS_RANKS else None

STANDINGS = (
    "kept",
    "missing",
    "failed_before",
    "unfinished",
    "input_changed",
    "options_changed",
    "mismatched",
    "unrecorded",
)


def resume(source, output, *options, **others):
    """`smooth --resume`; returns the counts of what was found, and checks that the totals agree with them."""
    report = Path(f"{output}.again.json")
    finished = smooth(source, output, *options, "--resume", report=report, **others)
    counts = finished.report["resume"]
    totals = finished.report["totals"]
    assert tuple(counts) == STANDINGS
    assert totals["skipped"] == counts["kept"], finished
    assert totals["done"] + totals["failed"] == sum(counts.values()) - counts["kept"], finished
    assert f"resume: {counts['kept']} kept, {totals['done'] + totals['failed']} to do" in finished.stderr, finished
    return {name: count for name, count in counts.items() if count}


def journals(output):
    return sorted((Path(output) / ".niimpi").glob("journal-*.jsonl"))


def lines(output):
    """Every line of every journal; each must be JSON."""
    return [json.loads(line) for path in journals(output) for line in path.read_text().splitlines()]


def test_each_cause_is_found_and_told(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    paths = images.series(source, 12)
    whole = paths[11].read_bytes()
    paths[11].write_bytes(whole[:100])
    smooth(source, out, "--sigma=1", ranks=RANKS, expect=1)
    paths[11].write_bytes(whole)

    (out / "sample_1.nii.gz").unlink()
    os.utime(paths[1], ns=(1, paths[1].stat().st_mtime_ns + 1))
    replaced = images.random_array(np.random.default_rng(99), (8, 9, 7), "uint8")
    images.write(paths[2], replaced, affine=images.diagonal(2, 2, 2))
    with open(out / "sample_4.nii.gz", "ab") as file:
        file.write(b"\0")
    damaged = bytearray((out / "sample_5.nii.gz").read_bytes())
    damaged[-6] ^= 1
    (out / "sample_5.nii.gz").write_bytes(damaged)

    found = resume(source, out, "--sigma=1", ranks=RANKS)
    assert found == {"kept": 6, "missing": 1, "failed_before": 1, "input_changed": 2, "mismatched": 2}
    smooth(source, tmp_path / "fresh", "--sigma=1")
    assert sums(out) == sums(tmp_path / "fresh")
    assert resume(source, out, "--sigma=1", ranks=RANKS) == {"kept": 12}
    assert resume(source, out, "--sigma=1", "--compression=2", ranks=RANKS) == {"options_changed": 12}
    assert resume(source, out, "--sigma=2", "--compression=2", ranks=RANKS) == {"options_changed": 12}
    smooth(source, tmp_path / "other", "--sigma=2", "--compression=2")
    assert sums(out) == sums(tmp_path / "other")
    shutil.rmtree(out / ".niimpi")
    assert resume(source, out, "--sigma=2", "--compression=2", ranks=RANKS) == {"unrecorded": 12}


def test_another_input_of_the_same_name_is_another_input(tmp_path):
    for place in ("a", "b"):
        images.series(tmp_path / place, 3)
    smooth(tmp_path / "a", tmp_path / "out", "--sigma=1")
    assert resume(tmp_path / "b", tmp_path / "out", "--sigma=1") == {"input_changed": 3}


@pytest.mark.parametrize("suffix", [".nii", ".hdr", ".hdr.gz"])
def test_results_without_a_trailer_and_pairs(tmp_path, suffix):
    """Without compression there is no checksum in the file: its time tells that it was changed."""
    source, out = tmp_path / "in", tmp_path / "out"
    rng = np.random.default_rng(3)
    for number in range(4):
        array = images.random_array(rng, (8, 9, 7), "int16")
        make = images.write if suffix == ".nii" else images.write_pair
        make(source / f"image_{number}{suffix}", array)
    smooth(source, out, "--sigma=1", ranks=RANKS)
    before = sums(out)
    assert resume(source, out, "--sigma=1", ranks=RANKS) == {"kept": 4}
    voxels = out / f"image_2{suffix}".replace(".hdr", ".img")
    content = bytearray(voxels.read_bytes())
    content[-3] ^= 1
    voxels.write_bytes(content)
    assert resume(source, out, "--sigma=1", ranks=RANKS) == {"kept": 3, "mismatched": 1}
    voxels = out / f"image_1{suffix}".replace(".hdr", ".img")
    voxels.unlink()
    expected = {"kept": 3, "missing" if suffix == ".nii" else "mismatched": 1}
    assert resume(source, out, "--sigma=1", ranks=RANKS) == expected
    assert sums(out) == before


@pytest.mark.ranks
@pytest.mark.parametrize("strategy", ["block", "cyclic", "size", "dynamic"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_any_ranks_and_strategy_go_on_where_others_stopped(tmp_path, strategy, ranks):
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 10)
    smooth(source, out, "--sigma=1", "--limit=6", ranks=2)
    before = {name: (out / name).stat().st_mtime_ns for name in sums(out)}
    found = resume(source, out, "--sigma=1", "--strategy", strategy, ranks=ranks, threads=2)
    assert found == {"kept": 6, "missing": 4}
    assert all((out / name).stat().st_mtime_ns == time for name, time in before.items()), "a result was written twice"


def test_shards_and_the_whole_list_know_of_each_other(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 9)
    for shard in ("1/3", "2/3"):
        found = resume(source, out, "--sigma=1", "--shard", shard, ranks=RANKS)
        assert found == {"missing": 3}
    assert resume(source, out, "--sigma=1", ranks=RANKS) == {"kept": 6, "missing": 3}
    assert resume(source, out, "--sigma=1", "--shard=3/3", ranks=RANKS) == {"kept": 3}
    assert len(journals(out)) == 4 * (RANKS or 1)


def test_a_journal_torn_anywhere(tmp_path):
    """Whatever is left of the last journal, what it vouches for is right and the rest is done again."""
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 6)
    smooth(source, out, "--sigma=1")
    before = sums(out)
    (journal,) = journals(out)
    whole = journal.read_bytes()
    rng = random.Random(11)
    cuts = [0, 1, whole.index(b"\n"), len(whole) - 1] + [rng.randrange(len(whole)) for _ in range(12)]
    for cut in cuts:
        for path in journals(out):
            path.unlink()
        journal.write_bytes(whole[:cut])
        ended = sum(json.loads(line)["event"] == "end" for line in whole[:cut].split(b"\n")[:-1])
        # A last line without its line break may be whole.
        last = whole[:cut].rpartition(b"\n")[2]
        ended += last.startswith(b'{"event":"end"') and last.endswith(b"}") and whole[cut : cut + 1] == b"\n"
        found = resume(source, out, "--sigma=1")
        assert found.get("kept", 0) == ended, f"cut at {cut}: {found}"
        assert found.get("unfinished", 0) <= 1
        assert sums(out) == before


def test_a_result_that_was_being_replaced_is_not_kept(tmp_path):
    """An image that another run began to write again is unfinished, whatever its file and its older record say."""
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 3)
    smooth(source, out, "--sigma=1")
    smooth(source, out, "--sigma=1", "--overwrite")
    # The second run's: within one second the names of runs do not tell their order.
    last = max(journals(out), key=lambda path: json.loads(path.read_text().partition("\n")[0])["unix_s"])
    rows = last.read_text().splitlines()
    # The run line, the first image's two lines, and the second image's beginning.
    assert [json.loads(row)["event"] for row in rows[:4]] == ["run", "begin", "end", "begin"]
    last.write_text("\n".join(rows[:4]) + "\n")
    assert resume(source, out, "--sigma=1") == {"kept": 2, "unfinished": 1}


def test_journals_of_a_whole_run(tmp_path):
    """Every image has one beginning and one end, under its rank's first line; outputs below the folder, inputs absolute."""
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 20)
    (source / "sample_7.nii.gz").write_bytes(b"")
    finished = smooth(Path(os.path.relpath(source, tmp_path)), out, "--sigma=1", ranks=RANKS, threads=2, expect=1, cwd=tmp_path)
    assert len(journals(out)) == (RANKS or 1)
    seen = {"begin": [], "end": []}
    for path in journals(out):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert [row["event"] for row in rows[:1] + rows[-1:]] == ["run", "close"]
        assert rows[0]["format"] == "niimpi-journal/1" and rows[-1]["state"] == "failed"
        assert rows[0]["rank"] == int(path.stem.rpartition("-")[2])
        for row in rows[1:-1]:
            seen[row["event"]].append(row["output"])
            assert row["input"] == str(source / row["output"])
            if row["event"] == "end" and row["state"] == "done":
                content = (out / row["output"]).read_bytes()
                assert row["output_bytes"] == len(content)
                trailer = [int.from_bytes(content[at : at + 4], "little") for at in (len(content) - 8, len(content) - 4)]
                assert [int(row["crc32"], 16), row["raw_bytes"]] == trailer
                assert row["input_bytes"] == (source / row["output"]).stat().st_size
                assert row["input_mtime_ns"] == (source / row["output"]).stat().st_mtime_ns
    assert sorted(seen["begin"]) == sorted(seen["end"]) == sorted(path.name for path in source.iterdir())
    assert finished.report["resume"] is None


def test_many_images_are_checked(tmp_path):
    """Four thousand here; the stress run has forty thousand."""
    count = int(os.environ.get("NIIMPI_STRESS_IMAGES", "4000"))
    source, out = tmp_path / "in", tmp_path / "out"
    first = images.write(source / "0" / "image_0.nii.gz", images.random_array(np.random.default_rng(5), (4, 4, 4), "uint8"))
    for number in range(1, count):
        folder = source / str(number // 500)
        folder.mkdir(exist_ok=True)
        # Hard links have a limit on some file systems; such small files cost no more.
        (folder / f"image_{number}.nii.gz").write_bytes(first.read_bytes())
    smooth(source, out, "--sigma=1", ranks=RANKS, timeout=150)
    (out / "0" / "image_3.nii.gz").unlink()
    began = time.monotonic()
    found = resume(source, out, "--sigma=1", ranks=RANKS)
    seconds = time.monotonic() - began
    assert found == {"kept": count - 1, "missing": 1}
    print(f"{count} images checked and one done in {seconds:.2f} s")


def test_a_pipe_among_the_journals_is_named_and_nobody_waits_for_it(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 2)
    smooth(source, out, "--sigma=1")
    pipe = out / ".niimpi" / "journal-pipe-00000.jsonl"
    os.mkfifo(pipe)
    words = [str(word) for word in ("smooth", source, "--output", out, "--sigma=1", "--resume")]
    for command in (["status", out], ["verify", out, "--against", "journal"], words):
        finished = run(command, timeout=30)
        assert finished.code == 0 and f"{pipe}: is left out" in finished.stderr, finished


def test_status_and_verify(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 8)
    smooth(source, out, "--sigma=1", ranks=RANKS)
    status = run(["status", out])
    assert status.code == 0 and "8 of 8 images done, 0 failed" in status.stdout, status
    assert status.stdout.count("completed") == (RANKS or 1), status
    assert run(["status", source]).code == 2

    for options in ([], ["--against", "journal"]):
        whole = run(["verify", out, *options], ranks=RANKS)
        assert whole.code == 0 and "8 of 8 images are whole" in whole.stdout, whole

    def damage(name, at, value=None):
        path = out / name
        content = bytearray(path.read_bytes())
        if value is None:
            del content[at:]
        else:
            content[at] ^= value
        path.write_bytes(content)

    damage("sample_1.nii.gz", len((out / "sample_1.nii.gz").read_bytes()) // 2, 0xFF)
    damage("sample_2.nii.gz", -3)
    damage("sample_3.nii.gz", -6, 1)
    shutil.copy(out / "sample_5.nii.gz", out / "sample_4.nii.gz")
    (out / "sample_6.nii.gz").unlink()
    wrong = run(["verify", out], ranks=RANKS)
    assert wrong.code == 1 and "4 of 7 images are whole" in wrong.stdout, wrong
    assert all(f"sample_{number}.nii.gz" in wrong.stdout for number in (1, 2, 3)), wrong
    against = run(["verify", out, "--against", "journal"], ranks=RANKS)
    assert against.code == 1 and "3 of 8 images are whole and as recorded" in against.stdout, against
    assert "sample_4.nii.gz" in against.stdout and "was recorded" in against.stdout, against
    assert "sample_6.nii.gz" in against.stdout and "no such file" in against.stdout, against
    assert run(["verify", source, "--against", "journal"], ranks=RANKS).code == 2
    for path in nibabel_readable(out):
        assert path.name in {"sample_4.nii.gz", "sample_5.nii.gz", "sample_7.nii.gz", "sample_8.nii.gz"}


def nibabel_readable(folder):
    """The images that another reader takes."""
    good = []
    for path in images.results(folder):
        try:
            np.asarray(nibabel.load(path).dataobj)
            good.append(path)
        except Exception:
            pass
    return good
