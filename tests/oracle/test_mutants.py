"""Damaged journals, reports and lists that look valid: no panic, no hang, no lost result or input."""

import collections
import os
import random
import re
import shutil

import pytest

import images
import mutants
from filters import FILTERS
from program import run
from test_faults import parts
from test_ranks import sums
from test_resume import journals

COUNT = int(os.environ.get("NIIMPI_STRESS_FILES", "1500")) // 15
pytestmark = pytest.mark.timeout(300 + 5 * COUNT)

# Far more memory than these files need, and far less than a wrong number in them could request.
LIMITED = ["prlimit", "--as=2000000000"]
# niimpi waits only this long to see whether the journal of an unknown run grows.
ENV = {"NIIMPI_TEST_WAIT_MS": 1}


def orderly(words, codes, **options):
    """Runs niimpi and checks that it ends with one of these exit codes, without a panic or a hang."""
    finished = run([str(word) for word in words], prefix=LIMITED, env=ENV, timeout=120, **options)
    assert finished.code in codes, finished
    assert "panicked" not in finished.stderr, finished
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", finished.stdout + finished.stderr), finished
    return finished.code


def chance():
    return random.Random(os.environ.get("NIIMPI_STRESS_SEED", "11"))


@pytest.fixture
def place(tmp_path):
    """Three images, their results with each filter, and a file next to the output folder that nothing may
    touch."""
    images.series(tmp_path / "in", 3)
    for filter in FILTERS:
        filter.run(tmp_path / "in", tmp_path / filter.name)
    (tmp_path / "victim.nii.gz").write_bytes(b"not to be touched")
    return tmp_path


def untouched(place):
    return images.tree(place / "in") | {"victim": (place / "victim.nii.gz").read_bytes()}


def test_mutated_journals(place):
    """The filters take turns."""
    rng, before = chance(), untouched(place)
    wholes = {filter: sums(place / filter.name) for filter in FILTERS}
    out = place / "out"
    ends = collections.Counter()
    for number in range(COUNT):
        filter = FILTERS[number % len(FILTERS)]
        whole = wholes[filter]
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(place / filter.name, out, copy_function=shutil.copy2)
        (journal,) = journals(out)
        content = mutants.mutate_journal(journal.read_text(), rng)
        (out / ".niimpi" / journal.name).write_bytes(content)
        at = f"journal {number} of {filter.name}: {content[:3000]}"
        orderly(["status", out], (0, 1, 2))
        removing = number % 4 == 0
        orderly(["verify", out, "--against=journal", *(["--remove"] if removing else [])], (0, 1, 2))
        found = sums(out)
        assert found.items() <= whole.items() and (removing or found == whole), at
        code = orderly([*filter.words, place / "in", "--output", out, "--resume"], (0, 2))
        ends[code] += 1
        # All results exist, or the run was refused and nothing has changed.
        assert sums(out) == (whole if code == 0 else found) and not parts(out), at
        assert untouched(place) == before, at
    print(f"{COUNT} mutated journals: {ends[0]} resumed, {ends[2]} refused, nothing lost")
    assert min(ends[0], ends[2]) > COUNT // 50, ends


def test_mutated_reports(place):
    rng, before = chance(), untouched(place)
    for shard in (1, 2):
        words = ["smooth", place / "in", "--output", place / "shares", "--sigma=1", f"--shard={shard}/2"]
        assert run([*words, "--report", place / f"{shard}.json"]).code == 0
    reports = ["smooth.report.json", "1.json", "median.report.json", "denoise.report.json"]
    texts = [(place / name).read_text() for name in reports]
    mutant, merged = place / "mutant.json", place / "merged.json"
    shown = collections.Counter()
    for number in range(COUNT):
        mutant.write_text(mutants.mutate_json(texts[number % len(texts)], rng), errors="surrogatepass")
        form = rng.choice(["table", "csv", "csv --rows=images", "json", "markdown", "table --series"])
        shown[orderly(["report", "show", mutant, "--format", *form.split()], (0, 1, 2))] += 1
        orderly(["report", "merge", mutant, place / "2.json", "--output", merged], (0, 1, 2, 75))
        merged.unlink(missing_ok=True)
        if number % 4 == 0:
            words = ["plan", place / "in", "--output", place / "planned", "--sigma=1", "--from", mutant]
            orderly([*words, place / "smooth.report.json"], (0, 1, 2))
    assert untouched(place) == before
    print(f"{COUNT} mutated reports: {shown[0]} shown, {shown[2]} refused")
    assert min(shown[0], shown[2]) > COUNT // 50, shown


def test_mutated_lists(place):
    rng, whole, before = chance(), sums(place / "smooth"), untouched(place)
    paths, expected = sorted((place / "in").iterdir()), os.listdir(place)
    out, listed = place / "out", place / "list.txt"
    ends = collections.Counter()
    for number in range(COUNT):
        shutil.rmtree(out, ignore_errors=True)
        content = mutants.mutate_list(paths, rng)
        listed.write_bytes(content)
        words = ["smooth", "--list", listed, "--base", place / "in", "--output", out, "--sigma=1"]
        if number % 3 == 0:
            words.append("--dry-run")
        code = orderly(words, (0, 1, 2), cwd=place)
        ends[code] += 1
        at = f"list {number}: {content[:3000]}"
        found = sums(out) if out.exists() else {}
        assert found.items() <= whole.items() and not (code == 2 and found), at
        assert untouched(place) == before, at
        assert set(os.listdir(place)) <= {*expected, "out", "list.txt"}, at
    print(f"{COUNT} mutated lists: {ends[0]} done, {ends[1]} with failures, {ends[2]} refused")
    assert min(ends[0], ends[2]) > COUNT // 50, ends
