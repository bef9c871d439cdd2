"""Resuming: results that match their journal records are kept, all others are processed again."""

import gzip
import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

import images
from faulty import faulty  # noqa: F401
from filters import each_filter
from program import HAS_RANKS, NIIMPI, run, smooth, start
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
    "other_input",
    "moved",
)


def resume(source, output, *options, **others):
    """A filter with --resume; returns the counts of what was found, and checks that the totals agree with
    them."""
    report = Path(f"{output}.again.json")
    finished = smooth(source, output, *options, "--resume", report=report, **others)
    counts = finished.report["resume"]
    totals = finished.report["totals"]
    assert tuple(counts) == STANDINGS
    assert totals["skipped"] == counts["kept"], finished
    done = totals["done"] + totals["failed"]
    assert done == sum(counts.values()) - counts["kept"] - counts["moved"], finished
    assert f"resume: {counts['kept']} kept" in finished.stderr and f", {done} to do" in finished.stderr, (
        finished
    )
    return {name: count for name, count in counts.items() if count}


def journals(output):
    return sorted((Path(output) / ".niimpi").glob("journal-*.jsonl"))


def lines(output):
    """Every line of every journal. Each must be JSON."""
    return [json.loads(line) for path in journals(output) for line in path.read_text().splitlines()]


def refused(source, output, *options, kinds, command="smooth", ranks=None):
    """A filter with --resume that must write nothing: exit 2, these counts per kind, and both ways on."""
    before = {path: path.read_bytes() for path in Path(output).rglob("*") if path.is_file()}
    words = [command, source, "--output", output, *options, "--resume"]
    finished = run([str(word) for word in words], ranks=ranks)
    assert finished.code == 2, finished
    for kind, (count, first) in kinds.items():
        assert f"  {count} {kind}, such as {Path(output) / first}" in finished.stderr, finished
    assert "--overwrite" in finished.stderr and "another --output" in finished.stderr, finished
    assert {path: path.read_bytes() for path in Path(output).rglob("*") if path.is_file()} == before
    return finished


@each_filter
def test_each_cause_is_found_and_reported(tmp_path, filter):
    source, out = tmp_path / "in", tmp_path / "out"
    paths = images.series(source, 12)
    whole = paths[11].read_bytes()
    paths[11].write_bytes(whole[:100])
    filter.run(source, out, ranks=filter.ranks, expect=1)
    paths[11].write_bytes(whole)

    (out / "sample_1.nii.gz").unlink()
    os.utime(paths[1], ns=(1, paths[1].stat().st_mtime_ns + 1))
    replaced = images.random_array(np.random.default_rng(99), (8, 9, 7), "uint8")
    images.write(paths[2], replaced, affine=images.diagonal(2, 2, 2))

    found = resume(source, out, *filter.options, command=filter.command, ranks=filter.ranks)
    assert found == {"kept": 9, "missing": 1, "failed_before": 1, "input_changed": 1}
    filter.run(source, tmp_path / "fresh")
    assert sums(out) == sums(tmp_path / "fresh")
    assert resume(source, out, *filter.options, command=filter.command, ranks=filter.ranks) == {"kept": 12}


@each_filter
def test_foreign_files_are_not_replaced(tmp_path, filter):
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 6)
    filter.run(source, out, ranks=filter.ranks)
    how = {"command": filter.command, "ranks": filter.ranks}
    of_others = {"made with other options": (6, "sample_1.nii.gz")}
    refused(source, out, *filter.options, "--compression=2", kinds=of_others, **how)
    refused(source, out, *filter.other, kinds=of_others, **how)
    # A result that a user edited, and one with damage that a quick check finds.
    with open(out / "sample_4.nii.gz", "ab") as file:
        file.write(b"\0")
    damaged = bytearray((out / "sample_5.nii.gz").read_bytes())
    damaged[-6] ^= 1
    (out / "sample_5.nii.gz").write_bytes(damaged)
    changed = {"changed since niimpi wrote them": (2, "sample_4.nii.gz")}
    refused(source, out, *filter.options, kinds=changed, **how)
    # A dry run prints the same.
    refused(source, out, *filter.options, "--dry-run", kinds=changed, command=filter.command)
    found = resume(source, out, *filter.options, "--overwrite", **how)
    assert found == {"kept": 4, "mismatched": 2}
    # Another data set with the same names.
    shutil.rmtree(out / ".niimpi")
    refused(source, out, *filter.options, kinds={"without a record": (6, "sample_1.nii.gz")}, **how)


def test_an_output_of_another_image_is_not_replaced(tmp_path):
    """Three subjects with equal file names, one run each, into one folder."""
    for subject in "123":
        images.write(
            tmp_path / subject / "T1.nii.gz",
            images.random_array(np.random.default_rng(int(subject)), (8, 9, 7), "int16"),
        )
    out = tmp_path / "out"
    smooth(tmp_path / "1", out, "--sigma=1")
    first = sums(out)
    for subject in "23":
        refused(tmp_path / subject, out, "--sigma=1", kinds={"made from another input": (1, "T1.nii.gz")})
    assert sums(out) == first
    # An earlier file in the list shifts all numbers.
    source, numbered = tmp_path / "in", tmp_path / "numbered"
    images.series(source, 3)
    smooth(source, numbered, "--sigma=1", "--name=denoised_{index}")
    images.write(source / "a.nii.gz", images.random_array(np.random.default_rng(9), (8, 9, 7), "int16"))
    refused(
        source,
        numbered,
        "--sigma=1",
        "--name=denoised_{index}",
        kinds={"made from another input": (3, "denoised_1.nii.gz")},
    )


def test_moved_data_is_recognised_by_its_content(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 3)
    smooth(source, out, "--sigma=1")
    (tmp_path / "link").symlink_to(source)
    assert resume(tmp_path / "link", out, "--sigma=1") == {"kept": 3}
    source.rename(tmp_path / "moved")
    assert resume(tmp_path / "moved", out, "--sigma=1") == {"kept": 3, "moved": 3}


def test_options_that_json_cannot_hold_are_distinguished(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 2)
    options = ["--sigma=1", "--boundary=constant", "--output-type=float32"]
    smooth(source, out, *options, "--cval=nan")
    refused(source, out, *options, "--cval=inf", kinds={"made with other options": (2, "sample_1.nii.gz")})
    assert resume(source, out, *options, "--cval=nan") == {"kept": 2}


def test_a_pair_with_one_replaced_file_is_a_changed_input(tmp_path):
    """The new file has equal size and an older time, so neither the sum of sizes nor the latest time
    changes."""
    source, out = tmp_path / "in", tmp_path / "out"
    rng = np.random.default_rng(3)
    for name in ("a", "b"):
        images.write_pair(source / f"{name}.hdr", images.random_array(rng, (8, 9, 7), "int16"))
    smooth(source, out, "--sigma=1")
    old = (source / "a.img").stat().st_mtime_ns - 10**9
    shutil.copy(source / "b.img", source / "a.img")
    os.utime(source / "a.img", ns=(old, old))
    assert resume(source, out, "--sigma=1") == {"kept": 1, "input_changed": 1}
    # The header is part of the record, too.
    shutil.copy(out / "b.hdr", out / "a.hdr")
    flipped = bytearray((out / "a.hdr").read_bytes())
    flipped[80] ^= 0x80
    (out / "a.hdr").write_bytes(flipped)
    against = run(["verify", out, "--against", "journal"])
    assert against.code == 1 and "a.hdr" in against.stdout and "was recorded" in against.stdout, against
    refused(source, out, "--sigma=1", kinds={"changed since niimpi wrote them": (1, "a.hdr")})


def test_a_folder_of_niimpi_0_1_is_resumed(tmp_path):
    """A folder of niimpi 0.1.0 with results, a failed image, and one that was in progress when the run was
    killed."""
    stored = Path(__file__).parent / "stored" / "niimpi-0.1.0.tar.gz"
    subprocess.run(["tar", "-xpzf", stored, "-C", tmp_path], check=True)
    place = tmp_path / "niimpi-0.1.0"
    for journal in journals(place / "out"):
        # The journal records inputs by their absolute path.
        journal.write_text(journal.read_text().replace("/stored/niimpi-0.1.0", str(place)))
    found = resume(place / "in", place / "out", "--sigma=1")
    assert found == {"kept": 5, "failed_before": 1, "unfinished": 1, "missing": 1}
    smooth(place / "in", tmp_path / "fresh", "--sigma=1")
    assert sums(place / "out") == sums(tmp_path / "fresh")
    report = json.loads((place / "report.json").read_text())
    assert report["schema"] == "niimpi-report/1"
    shown = run(["report", "show", place / "report.json"])
    assert shown.code == 0 and "7 of 8 images done, 1 failed" in shown.stdout, shown


def test_runs_at_the_same_time_do_not_replace_each_others_results(tmp_path, faulty):
    """A run is blocked before it renames its results. Meanwhile another run writes them, so the images of the
    first run fail."""
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 4)
    go = tmp_path / "go"
    words = [str(word) for word in ("smooth", source, "--output", out, "--sigma=1", "--threads=1")]
    with start(words, env=faulty("fsync:wait:0:/out/.niimpi-", go=go)) as held:
        until = time.monotonic() + 60
        while not list(out.glob(".niimpi-*.part")):
            assert time.monotonic() < until
            time.sleep(0.01)
        # Another list, so that the run is not refused as a run of the same images.
        smooth(source, out, "--sigma=4", "--limit=3")
        written = {name: total for name, total in sums(out).items() if not name.endswith(".part")}
        go.touch()
        finished = held.wait(60)
    assert finished.code == 1 and finished.stderr.count("another run wrote it meanwhile") == 3, finished
    after = sums(out)
    assert len(written) == 3 and len(after) == 4 and after.items() > written.items()
    assert not list(out.glob(".niimpi-*.part"))
    refused(source, out, "--sigma=1", kinds={"made with other options": (3, "sample_1.nii.gz")})


def test_a_run_with_a_fast_clock_does_not_override_later_runs(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 3)
    smooth(source, out, "--sigma=1")
    (journal,) = journals(out)
    ahead = [line for line in map(json.loads, journal.read_text().splitlines()) if line["event"] != "alive"]
    for line in ahead:
        line["unix_s"] += 3600
    # Killed at its second image.
    journal.write_text("".join(json.dumps(line) + "\n" for line in ahead[:5]))
    for number in (2, 3):
        (out / f"sample_{number}.nii.gz").unlink()
    assert resume(source, out, "--sigma=1") == {"kept": 1, "unfinished": 1, "missing": 1}
    assert resume(source, out, "--sigma=1") == {"kept": 3}
    assert run(["verify", out, "--against", "journal"]).code == 0


@pytest.mark.parametrize("suffix", [".nii", ".hdr", ".hdr.gz"])
def test_results_without_a_trailer_and_pairs(tmp_path, suffix):
    """Uncompressed files contain no checksum, so their modification time shows a change."""
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
    kinds = {"changed since niimpi wrote them": (1, f"image_2{suffix}")}
    refused(source, out, "--sigma=1", kinds=kinds, ranks=RANKS)
    assert resume(source, out, "--sigma=1", "--overwrite", ranks=RANKS) == {"kept": 3, "mismatched": 1}
    voxels = out / f"image_1{suffix}".replace(".hdr", ".img")
    voxels.unlink()
    assert resume(source, out, "--sigma=1", ranks=RANKS) == {"kept": 3, "missing": 1}
    assert sums(out) == before
    # A copy has other times but the same content.
    shutil.copytree(out, tmp_path / "copy")
    assert resume(source, tmp_path / "copy", "--sigma=1", ranks=RANKS) == {"kept": 4}


@pytest.mark.ranks
@pytest.mark.parametrize("strategy", ["block", "cyclic", "size", "dynamic"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_any_ranks_and_strategy_continue_a_run(tmp_path, strategy, ranks):
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 10)
    smooth(source, out, "--sigma=1", "--limit=6", ranks=2)
    before = {name: (out / name).stat().st_mtime_ns for name in sums(out)}
    found = resume(source, out, "--sigma=1", "--strategy", strategy, ranks=ranks, threads=2)
    assert found == {"kept": 6, "missing": 4}
    assert all((out / name).stat().st_mtime_ns == time for name, time in before.items()), (
        "a result was written twice"
    )


def test_shards_keep_results_of_the_whole_list_and_vice_versa(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 9)
    for shard in ("1/3", "2/3"):
        found = resume(source, out, "--sigma=1", "--shard", shard, ranks=RANKS)
        assert found == {"missing": 3}
    assert resume(source, out, "--sigma=1", ranks=RANKS) == {"kept": 6, "missing": 3}
    assert resume(source, out, "--sigma=1", "--shard=3/3", ranks=RANKS) == {"kept": 3}
    assert len(journals(out)) == 4 * (RANKS or 1)


@each_filter
def test_a_journal_torn_anywhere(tmp_path, filter):
    """For every place where the last journal is cut: recorded results are kept, others are processed
    again."""
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 6)
    filter.run(source, out)
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
        # A last line without its line break may be complete.
        last = whole[:cut].rpartition(b"\n")[2]
        ended += last.startswith(b'{"event":"end"') and last.endswith(b"}") and whole[cut : cut + 1] == b"\n"
        # Files without a record are unknown, so they are not replaced without --overwrite.
        found = resume(source, out, *filter.options, "--overwrite", command=filter.command)
        assert found.get("kept", 0) in (ended, ended + 1), f"cut at {cut}: {found}"
        assert found.get("unfinished", 0) + found.get("mismatched", 0) <= 1
        assert sums(out) == before


def test_a_result_that_was_being_replaced_is_not_kept(tmp_path):
    """An image that another run started to write again is unfinished, even if its file matches an older
    record."""
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 3)
    smooth(source, out, "--sigma=1")
    smooth(source, out, "--sigma=1", "--overwrite")
    # The journal of the second run. The names of runs in the same second do not show their order.
    last = max(journals(out), key=lambda path: json.loads(path.read_text().partition("\n")[0])["unix_s"])
    rows = [row for row in last.read_text().splitlines() if json.loads(row)["event"] != "alive"]
    # The run line, the first image's three lines, and the second image's start.
    assert [json.loads(row)["event"] for row in rows[:5]] == ["run", "begin", "staged", "end", "begin"]
    last.write_text("\n".join(rows[:5]) + "\n")
    assert resume(source, out, "--sigma=1") == {"kept": 2, "unfinished": 1}


def test_journals_of_a_whole_run(tmp_path):
    """Every image has one start and one end line after the first line of its rank. Outputs are relative to
    the folder, inputs absolute."""
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 20)
    (source / "sample_7.nii.gz").write_bytes(b"")
    finished = smooth(
        Path(os.path.relpath(source, tmp_path)),
        out,
        "--sigma=1",
        ranks=RANKS,
        threads=2,
        expect=1,
        cwd=tmp_path,
    )
    assert len(journals(out)) == (RANKS or 1)
    seen = {"begin": [], "staged": [], "end": []}
    for path in journals(out):
        rows = [row for row in map(json.loads, path.read_text().splitlines()) if row["event"] != "alive"]
        assert [row["event"] for row in rows[:1] + rows[-1:]] == ["run", "close"]
        assert rows[0]["format"] == "niimpi-journal/2" and rows[-1]["state"] == "failed"
        assert rows[0]["rank"] == int(path.stem.rpartition("-")[2])
        for row in rows[1:-1]:
            seen[row["event"]].append(row["output"])
            assert row["input"] == str(source / row["output"])
            if row["event"] == "staged":
                assert not any(row["output"] == other for other in seen["end"]), (
                    "staged before it has its name"
                )
            if row["event"] == "end" and row["status"] == "done":
                content = (out / row["output"]).read_bytes()
                (written,) = row["files_out"]
                assert row["bytes_out"] == written["bytes"] == len(content)
                trailer = [
                    int.from_bytes(content[at : at + 4], "little")
                    for at in (len(content) - 8, len(content) - 4)
                ]
                assert [int(written["crc32"], 16), written["raw_bytes"]] == trailer
                assert written["mtime_ns"] == (out / row["output"]).stat().st_mtime_ns
                (read,) = row["files_in"]
                original = source / row["output"]
                assert row["bytes_in"] == read["bytes"] == original.stat().st_size
                assert read["mtime_ns"] == original.stat().st_mtime_ns
                assert int(read["crc32"], 16) == int.from_bytes(original.read_bytes()[-8:-4], "little")
    names = sorted(path.name for path in source.iterdir())
    assert sorted(seen["begin"]) == sorted(seen["end"]) == names
    assert sorted(seen["staged"]) == [name for name in names if name != "sample_7.nii.gz"]
    assert finished.report["resume"] is None


def test_many_images_are_checked(tmp_path):
    """4,000 images here, 40,000 in the stress run."""
    count = int(os.environ.get("NIIMPI_STRESS_IMAGES", "4000"))
    source, out = tmp_path / "in", tmp_path / "out"
    first = images.write(
        source / "0" / "image_0.nii.gz", images.random_array(np.random.default_rng(5), (4, 4, 4), "uint8")
    )
    for number in range(1, count):
        folder = source / str(number // 500)
        folder.mkdir(exist_ok=True)
        # Some file systems limit hard links, and copies of such small files are as cheap.
        (folder / f"image_{number}.nii.gz").write_bytes(first.read_bytes())
    smooth(source, out, "--sigma=1", ranks=RANKS, timeout=150)
    (out / "0" / "image_3.nii.gz").unlink()
    began = time.monotonic()
    found = resume(source, out, "--sigma=1", ranks=RANKS)
    seconds = time.monotonic() - began
    assert found == {"kept": count - 1, "missing": 1}
    print(f"{count} images checked and one done in {seconds:.2f} s")


def test_a_pipe_among_the_journals_is_reported_and_does_not_block(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 2)
    smooth(source, out, "--sigma=1")
    pipe = out / ".niimpi" / "journal-pipe-00000.jsonl"
    os.mkfifo(pipe)
    words = [str(word) for word in ("smooth", source, "--output", out, "--sigma=1", "--resume")]
    for command in (["status", out], ["verify", out, "--against", "journal"], words):
        finished = run(command, timeout=30)
        assert finished.code == 0 and f"{pipe}: ignored, because" in finished.stderr, finished


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
        assert whole.code == 0 and "8 of 8 images are intact" in whole.stdout, whole

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
    assert wrong.code == 1 and "4 of 7 images are intact" in wrong.stdout, wrong
    assert all(f"sample_{number}.nii.gz" in wrong.stdout for number in (1, 2, 3)), wrong
    against = run(["verify", out, "--against", "journal"], ranks=RANKS)
    assert against.code == 1 and "3 of 8 images are intact and as recorded" in against.stdout, against
    assert "sample_4.nii.gz" in against.stdout and "was recorded" in against.stdout, against
    assert "sample_6.nii.gz" in against.stdout and "no such file" in against.stdout, against
    assert run(["verify", source, "--against", "journal"], ranks=RANKS).code == 2
    for path in nibabel_readable(out):
        assert path.name in {"sample_4.nii.gz", "sample_5.nii.gz", "sample_7.nii.gz", "sample_8.nii.gz"}
    removed = run(["verify", out, "--against", "journal", "--remove"], ranks=RANKS)
    assert removed.code == 1 and "--resume makes them again" in removed.stderr + removed.stdout, removed
    assert resume(source, out, "--sigma=1", ranks=RANKS) == {"kept": 3, "missing": 5}
    assert run(["verify", out, "--against", "journal"], ranks=RANKS).code == 0


def test_verify_removes_only_what_it_knows_to_be_wrong(tmp_path, faulty):  # noqa: F811
    """A result that cannot be read can be intact."""
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 4)
    smooth(source, out, "--sigma=1")
    shutil.copy(out / "sample_4.nii.gz", out / "sample_1.nii.gz")
    env = faulty("read:5:0:sample_2", "open:24:0:sample_3")
    removing = ["verify", out, "--against", "journal", "--remove"]
    removed = run(removing, env=env)
    assert removed.code == 1 and "1 of 4 images are intact" in removed.stdout, removed
    found = {path.name for path in out.glob("*.nii.gz")}
    assert found == {"sample_2.nii.gz", "sample_3.nii.gz", "sample_4.nii.gz"}, removed
    assert resume(source, out, "--sigma=1") == {"kept": 3, "missing": 1}


@pytest.mark.skipif(not HAS_RANKS, reason="a build without MPI")
def test_verify_keeps_what_only_another_rank_finds_wrong(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 6)
    smooth(source, out, "--sigma=1")
    shutil.copy(out / "sample_1.nii.gz", out / "sample_3.nii.gz")
    script = tmp_path / "elsewhere"
    rank = "${OMPI_COMM_WORLD_RANK:-$PMI_RANK}"
    script.write_text(f'#!/bin/sh\n[ "{rank}" = 1 ] && cd /\nexec "{NIIMPI}" "$@"\n')
    script.chmod(0o755)
    removing = ["verify", "out", "--against", "journal", "--remove"]
    removed = run(removing, ranks=2, cwd=tmp_path, program=script)
    assert removed.code == 1 and "2 of 6 images are intact" in removed.stdout, removed
    assert "3 results are kept" in removed.stderr + removed.stdout, removed
    assert len(images.results(out)) == 5 and not (out / "sample_3.nii.gz").exists(), removed


def test_a_change_in_any_gzip_member_is_found(tmp_path):
    """The checksum at the end of a gzip file is that of its last member."""
    source, out = tmp_path / "in", tmp_path / "out"
    rng = np.random.default_rng(3)
    for name in ("changed", "single", "padded"):
        images.write(source / f"{name}.nii.gz", images.random_array(rng, (8, 9, 7), "int16"))
    changed = source / "changed.nii.gz"
    content = bytearray(gzip.decompress(changed.read_bytes()))

    def write():
        changed.write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]))

    write()
    # Bytes behind the voxels are no second member.
    padded = source / "padded.nii.gz"
    padded.write_bytes(gzip.compress(gzip.decompress(padded.read_bytes()) + b"more"))
    smooth(source, out, "--sigma=1")
    content[400] ^= 1
    write()
    for path in source.iterdir():
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert resume(source, out, "--sigma=1") == {"kept": 2, "input_changed": 1}
    smooth(source, tmp_path / "fresh", "--sigma=1")
    assert sums(out) == sums(tmp_path / "fresh")


def nibabel_readable(folder):
    """The images that nibabel can read."""
    good = []
    for path in images.results(folder):
        try:
            np.asarray(nibabel.load(path).dataobj)
            good.append(path)
        except Exception:
            pass
    return good
