"""Hostile files and names in the whole program: they are refused or smoothed, without a panic, a hang or
unbounded memory."""

import csv
import gzip
import json
import os
import random
import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

import images
import mutants
from filters import FILTERS, each_filter
from program import HAS_RANKS, run, smooth
from test_faults import lying, parts
from test_ranks import sums
from test_resume import lines, resume

pytestmark = pytest.mark.timeout(600)

RANKS = 2 if HAS_RANKS else None

# Memory limit of a rank with two workers if no file inflates to more than 9 MiB (8 KiB × 1032, the maximum
# ratio of gzip).
PEAK_MIB = 160


LOG_LINE = re.compile(r"20\d\d-\d\d-\d\dT\S+Z +(DEBUG|INFO|WARN|ERROR) rank\{")


def seeds():
    """Small images of every kind: (suffix, bytes, bytes without compression)."""
    rng = np.random.default_rng(17)
    found = []
    kinds = [("uint8", (7, 6, 5)), ("int16", (6, 5, 4, 3)), ("float32", (9, 8)), ("float64", (5, 4, 3))]
    for datatype, shape in kinds:
        for order in "<>":
            for version in (1, 2):
                array = images.random_array(rng, shape, datatype)
                header = images.header_for(array, order, version, slope=2 if version == 1 else None)
                extensions = images.extension(6, b"a comment", order)
                extensions += images.extension(4, b"<xml/>" * 20, order)
                found.append(images.image_bytes(array, header, extensions if order == "<" else b""))
    return found


def mutate(content, rng, within):
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 3, 8])):
        if not content:
            break
        at = rng.randrange(min(within, len(content)))
        kind = rng.randrange(7)
        if kind == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif kind == 2:
            content[at : at + 4] = rng.randbytes(4)
        elif kind == 3:
            order = rng.choice("<>")
            number = rng.choice([-1, 2**31 - 1, 2**31, 2**62, -(2**63)])
            content[at : at + 8] = struct.pack(order + "q", number)
        elif kind == 4:
            del content[at:]
        elif kind == 5:
            content[at:at] = rng.randbytes(rng.randrange(1, 64))
        else:
            del content[at : at + rng.randrange(1, 64)]
    return bytes(content)


def check_orderly(finished):
    """Checks that there is no panic and that the program wrote every line of the log and the table."""
    assert finished.code in (0, 1), finished
    assert "panicked" not in finished.stderr and "RUST_BACKTRACE" not in finished.stderr, finished
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", finished.stdout + finished.stderr)
    for line in finished.stderr.splitlines():
        launchers = re.match(
            r"-+$|Primary job|a non-zero exit code|mpirun|the job to be|\s*(Process name|Exit code)|$", line
        )
        assert launchers or LOG_LINE.match(line), line


@each_filter
def test_mutated_files(tmp_path, filter):
    """Fifteen hundred here and a fifth for each other filter; the stress run has ten thousand. A third of
    them look right: see mutants.py."""
    count = int(os.environ.get("NIIMPI_STRESS_FILES", "1500")) // (1 if filter is FILTERS[0] else 5)
    rng = random.Random(os.environ.get("NIIMPI_STRESS_SEED", "3"))
    source, out = tmp_path / "in", tmp_path / "out"
    kinds = seeds()
    for number in range(count):
        folder = source / f"{number // 1000}"
        folder.mkdir(parents=True, exist_ok=True)
        content = rng.choice(kinds)
        way = number % 6
        if way >= 4:
            kind, ending, content = mutants.image(rng, kinds)
            (folder / f"{kind}{number}{ending}").write_bytes(content)
        elif way == 0:
            (folder / f"m{number}.nii").write_bytes(mutate(content, rng, 700))
        elif way == 1:
            (folder / f"m{number}.nii.gz").write_bytes(gzip.compress(mutate(content, rng, 700), 1))
        elif way == 2:
            (folder / f"m{number}.nii.gz").write_bytes(mutate(gzip.compress(content, 1), rng, 1 << 20))
        else:
            split = 348 if content[0] == 92 or content[3] == 92 else 540
            (folder / f"m{number}.hdr").write_bytes(mutate(content[:split], rng, 700))
            (folder / f"m{number}.img").write_bytes(mutate(content[split:], rng, 700))
    options = ("--report-csv", "--log-dir", tmp_path / "log")
    finished = filter.run(source, out, *options, ranks=RANKS, threads=2, expect=1, timeout=500)
    assert finished.code == 1 and "panicked" not in finished.stderr
    # mpirun can mix the lines of several ranks, so this reads each rank's own log.
    for log in (tmp_path / "log").iterdir():
        assert all(LOG_LINE.match(line) for line in log.read_text().splitlines())
    report = finished.report
    totals = report["totals"]
    assert totals["images"] == count == totals["done"] + totals["failed"] and totals["skipped"] == 0
    assert totals["done"] > count // 20 and totals["failed"] > count // 4, totals
    assert all(record["error"] for record in report["images"] if record["status"] == "failed")
    # Few chains of extensions are refused.
    for kind in ("sizes", "members", *(["extensions"] if count >= 1000 else [])):
        ends = {image["status"] for image in report["images"] if f"/{kind}" in image["input"]}
        assert ends == {"done", "failed"}, kind
    peak_mib = totals["max_rss_bytes"] / 2**20
    assert peak_mib < PEAK_MIB, f"{peak_mib:.0f} MiB"
    written = {name for name in sums(out) if not name.endswith(".img")}
    assert len(written) == totals["done"] and not parts(out)
    how = {"command": filter.command, "ranks": RANKS, "threads": 2, "expect": 1}
    found = resume(source, out, *filter.options, **how)
    assert found == {"kept": totals["done"], "failed_before": totals["failed"]}
    verified = run(["verify", out], ranks=RANKS, timeout=120)
    assert verified.code == 0, verified
    ended = f"{totals['done']} done, {totals['failed']} refused"
    print(f"{filter.name}: {count} mutated files: {ended}, peak {peak_mib:.0f} MiB per rank")


def test_gzip_bombs_and_false_headers(tmp_path):
    """Files that inflate to more than they should, or claim to, stay within the memory bound."""
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 2)
    array = np.zeros((8, 8, 8), "uint8")
    content = images.image_bytes(array, images.header_for(array))
    # Half a GiB of zeros after the voxels.
    with gzip.open(source / "behind.nii.gz", "wb", 1) as file:
        file.write(content)
        for _ in range(512):
            file.write(bytes(1 << 20))
    huge = bytearray(content)
    struct.pack_into("<8h", huge, 40, 3, 32767, 32767, 32767, 1, 1, 1, 1)
    (source / "lie.nii").write_bytes(huge)
    (source / "lie_gz.nii.gz").write_bytes(gzip.compress(huge, 1))
    # Every dimension has the largest value of its type, so the product does not fit into 64 bits.
    struct.pack_into("<8h", huge, 40, 7, *[32767] * 7)
    (source / "absurd.nii.gz").write_bytes(gzip.compress(huge, 1))
    # A vox_offset beyond any file size.
    far = bytearray(content)
    struct.pack_into("<f", far, 108, 3e38)
    (source / "far.nii.gz").write_bytes(gzip.compress(far, 1))
    # Many empty members, and a stream of stored blocks without content.
    (source / "members.nii.gz").write_bytes(gzip.compress(content, 1) + gzip.compress(b"", 1) * 20_000)
    empty_blocks = b"\x1f\x8b\x08\0\0\0\0\0\0\3" + b"\0\0\0\xff\xff" * 200_000
    (source / "blocks.nii.gz").write_bytes(empty_blocks)
    extension = bytearray(content)
    extension[348] = 1
    struct.pack_into("<f", extension, 108, 352 + 16)
    extension[352:352] = struct.pack("<ii", 2**31 - 16, 6) + bytes(8)
    (source / "extension.nii.gz").write_bytes(gzip.compress(extension, 1))
    finished = smooth(source, out, "--sigma=1", ranks=RANKS, threads=2, expect=1, timeout=120)
    check_orderly(finished)
    records = finished.report["images"]
    failed = {Path(record["input"]).name for record in records if record["status"] == "failed"}
    assert {"lie.nii", "lie_gz.nii.gz", "absurd.nii.gz", "far.nii.gz", "blocks.nii.gz"} <= failed, failed
    assert finished.report["totals"]["max_rss_bytes"] < PEAK_MIB << 20
    assert (out / "behind.nii.gz").exists() and (out / "members.nii.gz").exists()


def test_a_gzip_bomb_with_a_correct_header_meets_the_memory_limit(tmp_path):
    """2.6 GiB of zeros in 3 MiB, under a limit of one GiB."""
    source, out = tmp_path / "in", tmp_path / "out"
    images.series(source, 2)
    lying(source / "bomb.nii.gz", (900, 900, 860))
    args = ["smooth", source, "--output", out, "--sigma=1", "--threads=1", "--report", tmp_path / "r.json"]
    limited = ["bash", "-c", f'ulimit -v {1 << 20}; exec "$@"', "-"]
    finished = run(args, prefix=limited, report_path=tmp_path / "r.json", timeout=120)
    check_orderly(finished)
    assert finished.report["totals"]["done"] == 2 and finished.report["totals"]["failed"] == 1
    assert finished.report["totals"]["max_rss_bytes"] < PEAK_MIB << 20


NAMES = [
    b"line\nbreak.nii.gz",
    b"escape \x1b[31mred\x1b[0m.nii.gz",
    b"\xff\xfe not UTF-8.nii.gz",
    b"carriage\rreturn.nii.gz",
    b'comma, "quotes", =1+1.nii.gz',
    b"..nii.gz",
    b"-rf.nii.gz",
    b"{index} {stem}.nii.gz",
    "\u202egpj.txet \u2028.nii.gz".encode(),
    b"x" * 248 + b".nii.gz",
]


@pytest.mark.parametrize("broken", [False, True])
def test_names_that_would_break_lines(tmp_path, broken):
    """The log, the table, the CSV files, the journal and a resumed run can handle any file name."""
    source, out = tmp_path / "in", tmp_path / "out"
    array = images.random_array(np.random.default_rng(1), (8, 9, 7), "uint8")
    content = gzip.compress(images.image_bytes(array, images.header_for(array)), 1)
    source.mkdir()
    for name in NAMES:
        with open(os.fsencode(source) + b"/" + name, "wb") as file:
            file.write(content[:50] if broken else content)
    visible = [name for name in NAMES if not name.startswith(b".")]
    finished = smooth(
        source, out, "--sigma=1", "-v", "--report-csv", "--report-table",
        ranks=RANKS, threads=2, expect=int(broken)
    )
    assert "panicked" not in finished.stderr
    shown = finished.stdout + finished.stderr + Path(f"{out}.report.txt").read_text()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u2028\u202e]", shown), finished
    report = finished.report
    assert len(report["images"]) == len(visible)
    with open(f"{out}.report.images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(visible)
    assert all(None not in row and row["status"] in ("done", "failed") for row in rows)
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", Path(f"{out}.report.images.csv").read_text())
    results = sorted(name for name in os.listdir(os.fsencode(out)) if name != b".niimpi")
    assert results == ([] if broken else sorted(visible))
    assert len([line for line in lines(out) if line["event"] == "end"]) == len(visible)
    kind = "failed_before" if broken else "kept"
    assert resume(source, out, "--sigma=1", ranks=RANKS, expect=int(broken)) == {kind: len(visible)}
    status = run(["status", out])
    assert status.code == 0 and not re.search("[\x00-\x08\x0b-\x1f\x7f\u2028\u202e]", status.stdout), status
    verified = run(["verify", out, "--against", "journal"], ranks=RANKS)
    assert verified.code == int(broken), verified
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u2028\u202e]", verified.stdout), verified


def test_errors_of_set_up_escape_names_too(tmp_path):
    missing = tmp_path / "no\x1b[31m such\nplace.nii"
    finished = run(["smooth", missing, "--output", tmp_path / "out", "--sigma=1"], ranks=RANKS)
    assert finished.code == 2 and "\x1b" not in finished.stderr, finished
    assert "such\\nplace" in finished.stderr, finished


def test_links_and_paths_that_lead_elsewhere(tmp_path):
    """A link to a file in the output folder is replaced, not followed. Each linked folder is searched
    once."""
    source, out, other = tmp_path / "in", tmp_path / "out", tmp_path / "other"
    images.series(source, 2)
    other.mkdir()
    treasure = other / "treasure.nii.gz"
    treasure.write_bytes(b"not to be touched")
    out.mkdir()
    (out / "sample_1.nii.gz").symlink_to(treasure)
    (out / "sample_2.nii.gz").symlink_to(other / "nowhere.nii.gz")
    smooth(source, out, "--sigma=1", "--overwrite", ranks=RANKS)
    assert treasure.read_bytes() == b"not to be touched" and sorted(os.listdir(other)) == ["treasure.nii.gz"]
    assert not (out / "sample_1.nii.gz").is_symlink() and (out / "sample_2.nii.gz").is_file()

    (source / "loop").symlink_to(source)
    (source / "out").symlink_to(other)
    (other / "again").symlink_to(source)
    finished = smooth(source, tmp_path / "out2", "--sigma=1", ranks=RANKS)
    assert finished.report["totals"]["images"] == 2 and "--follow-links" in finished.stderr, finished
    finished = smooth(source, tmp_path / "out3", "--sigma=1", "--follow-links", ranks=RANKS, expect=1)
    check_orderly(finished)
    assert finished.report["totals"]["images"] == 3, "each of the three images must be listed once"


def test_folders_of_the_output_that_are_links(tmp_path):
    """A link below the output stops the run, because results would land elsewhere."""
    source, out, victim = tmp_path / "in", tmp_path / "out", tmp_path / "victim"
    images.series(source / "sub", 3)
    images.series(victim, 3)
    raw = {path.name: path.read_bytes() for path in victim.iterdir()}
    out.mkdir()
    (out / "sub").symlink_to(victim)
    words = [str(word) for word in ("smooth", source, "--output", out, "--sigma=1", "--overwrite")]
    finished = run(words, ranks=RANKS)
    assert finished.code == 2 and f"{out / 'sub'} is a link" in finished.stderr, finished
    assert "--follow-links" in finished.stderr
    assert {path.name: path.read_bytes() for path in victim.iterdir()} == raw
    smooth(source, out, "--sigma=1", "--overwrite", "--follow-links", ranks=RANKS)
    assert all((victim / name).read_bytes() != content for name, content in raw.items())
    # The output folder itself may be a link.
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    smooth(source, tmp_path / "link", "--sigma=1", ranks=RANKS)
    assert len(list((tmp_path / "elsewhere" / "sub").iterdir())) == 3


def test_a_deep_folder(tmp_path):
    """Images with paths up to the system's limit are done. A deeper folder is reported and only its images
    are missing."""
    source = tmp_path / "in"
    deep = source / "/".join(["d" * 50] * 60)
    images.series(deep, 1)
    finished = smooth(source, tmp_path / "out", "--sigma=1", ranks=RANKS)
    assert finished.report["totals"]["done"] == 1
    # The path of this one is too long for a single call.
    subprocess.run(
        [
            "bash", "-c", 'cd "$1" && for i in $(seq 100); do mkdir -p "$2" && cd -P "$2" || exit 1; done',
            "-", source, "e" * 50,
        ],
        check=True,
    )
    finished = run(["smooth", source, "--output", tmp_path / "out2", "--sigma=1"], ranks=RANKS)
    assert finished.code in (0, 1) and "panicked" not in finished.stderr, finished
    subprocess.run(["rm", "-rf", source], check=True)
