"""Failures in a run: broken images among good ones, ranks that panic, fail or are killed. Nothing hangs."""

import gzip
import os
import re
import shutil
import signal
import struct
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

import images
import program
from filters import FILTERS
from program import HAS_RANKS, ranks_alive, smooth, start

pytestmark = pytest.mark.timeout(180)

RANKS = 3 if HAS_RANKS else None

# Seconds within which every process of a job must end after one of its ranks failed.
LIMIT_S = 90


def good_bytes(seed):
    """An uncompressed image: header, gap, voxels."""
    array = images.random_array(np.random.default_rng(seed), (8, 9, 7), "uint8")
    return bytearray(images.image_bytes(array, images.header_for(array, affine=images.diagonal(2, 2, 2))))


def packed(content):
    return gzip.compress(bytes(content), 1, mtime=0)


def empty(path):
    path.write_bytes(b"")


def cut(path):
    raw = packed(good_bytes(1))
    path.write_bytes(raw[: len(raw) // 2])


def cut_trailer(path):
    path.write_bytes(packed(good_bytes(2))[:-5])


def wrong_crc(path):
    raw = bytearray(packed(good_bytes(3)))
    raw[-8] ^= 0xFF
    path.write_bytes(raw)


def text(path):
    path.write_text("This is the note that somebody saved under an image's name.\n" * 20)


def bad_magic(path):
    content = good_bytes(4)
    content[344:348] = b"xyz\0"
    path.write_bytes(packed(content))


def huge(path):
    content = good_bytes(5)
    struct.pack_into("<8h", content, 40, 3, 10000, 10000, 10000, 1, 1, 1, 1)
    path.write_bytes(packed(content))


def offset(path):
    content = good_bytes(6)
    struct.pack_into("<f", content, 108, 348)
    path.write_bytes(packed(content))


def folder(path):
    path.mkdir()


def no_permission(path):
    path.write_bytes(packed(good_bytes(7)))
    path.chmod(0)


# How an image is broken, and what the recorded cause must contain.
TEN_WAYS = {
    empty: "empty",
    cut: "cut short|truncat|ends|incomplete",
    cut_trailer: "trailer|missing|cut short|truncat",
    wrong_crc: "crc|checksum",
    text: "not a gzip|not compressed|not a nifti",
    bad_magic: "magic|not a nifti",
    huge: "declares|cut short|bytes|memory",
    offset: "byte 348 \\(vox_offset\\), inside the header",
    folder: "folder|directory",
    no_permission: "permission",
}
# By this kind of the cause, the report's page says what to do. All others are damaged files.
PROBLEMS = {folder: "unsupported", no_permission: "no-permission"}


@pytest.fixture
def ordinary():
    """A folder of an ordinary user: (folder, program, prefix that starts a command as that user).

    Root may access everything, so a test that runs as root uses the user `nobody`.
    """
    place = Path(tempfile.mkdtemp(prefix="niimpi-oracle-"))
    place.chmod(0o755)
    binary, prefix = program.NIIMPI, []
    if os.geteuid() == 0:
        binary = str(place / "bin" / Path(program.NIIMPI).name)
        (place / "bin").mkdir()
        shutil.copy(program.NIIMPI, binary)
        os.chmod(binary, 0o755)
        if shutil.which("setpriv"):
            prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        else:
            prefix = ["runuser", "-u", "nobody", "--"]
    (place / "home").mkdir()
    yield place, binary, prefix
    shutil.rmtree(place, ignore_errors=True)


def as_ordinary(place, prefix):
    """Gives the folder to the ordinary user. Returns that user's environment."""
    if prefix:
        for path in [place, *place.rglob("*")]:
            os.chown(path, 65534, 65534)
    return {"HOME": place / "home", "TMPDIR": place / "home"}


def smooth_as(ordinary, source, output, *options, **others):
    """`smooth` as the ordinary user."""
    place, binary, prefix = ordinary
    env = as_ordinary(place, prefix)
    kept = os.geteuid
    if prefix:
        # The launcher runs as an ordinary user and needs no options for root.
        os.geteuid = lambda: 65534
    try:
        return smooth(
            source, output, *options, env=env, prefix=prefix, program=binary, cwd=place / "home", **others
        )
    finally:
        os.geteuid = kept


MANY = [(FILTERS[0], 400, "size"), *((filter, 100, "dynamic") for filter in FILTERS)]


@pytest.mark.parametrize(("filter", "count", "strategy"), MANY, ids=[f"{f.name}-{n}" for f, n, _ in MANY])
def test_many_images_of_which_ten_are_broken(ordinary, filter, count, strategy):
    place = ordinary[0]
    images.series(place / "in", count)
    broken = {}
    for number, (way, cause) in enumerate(TEN_WAYS.items()):
        path = place / "in" / f"sample_{(number + 1) * count // 11}.nii.gz"
        path.unlink()
        way(path)
        broken[str(path)] = cause, PROBLEMS.get(way, "damaged")
    finished = smooth_as(
        ordinary,
        place / "in",
        place / "out",
        *filter.options,
        "--strategy",
        strategy,
        command=filter.command,
        ranks=RANKS,
        threads=2,
        expect=1,
    )
    report = finished.report
    totals = report["totals"]
    assert (totals["images"], totals["done"], totals["failed"]) == (count, count - 10, 10), finished.stderr
    assert sum(rank["failed"] for rank in report["ranks"]) == 10
    failed = {record["input"]: record for record in report["images"] if record["status"] == "failed"}
    assert sorted(failed) == sorted(broken), "the report must list the ten broken images"
    for path, (cause, problem) in broken.items():
        record = failed[path]
        assert record["problem"] == problem, record
        assert re.search(cause, record["error"], re.IGNORECASE), (
            f"{path}: {record['error']!r} does not say {cause!r}"
        )
        assert record["stage"] == "read", record
        assert not (place / "out" / Path(path).name).exists()
        lines = [line for line in finished.stderr.splitlines() if Path(path).name in line]
        assert len(lines) == 1, f"expected one line for {path}, found {lines}"
    written = sorted(path.name for path in images.results(place / "out"))
    assert len(written) == count - 10 and all(name.startswith("sample_") for name in written)
    for name in written:
        np.asarray(nibabel.load(place / "out" / name).dataobj)


def test_other_causes_have_their_kinds(tmp_path):
    source = tmp_path / "in"
    images.write(source / "good.nii", np.ones((9, 9, 9), np.float32))
    images.write(source / "nan.nii", np.full((9, 9, 9), np.nan, np.float32))
    images.write(source / "complex.nii", np.ones((9, 9, 9), np.complex64))
    (source / "absent.nii").symlink_to("nowhere.nii")
    (source / "annexed.nii").symlink_to(".git/annex/objects/absent")
    finished = smooth(source, tmp_path / "out", command="median", expect=1)
    problems = {Path(row["input"]).stem: row.get("problem") for row in finished.report["images"]}
    assert problems == {
        "good": None,
        "nan": "non-finite",
        "complex": "unsupported",
        "absent": "not-found",
        "annexed": "not-fetched",
    }


def test_images_of_other_kinds_are_refused_by_name(tmp_path):
    """The records distinguish complex, RGB, 128-bit floats, CIFTI and Analyze 7.5."""
    source = tmp_path / "in"
    source.mkdir()
    array = np.zeros((4, 5, 6), "uint8")
    kinds = {
        "complex64": (32, 64),
        "complex128": (1792, 128),
        "rgb24": (128, 24),
        "float128": (1536, 128),
        "rgba32": (2304, 32),
    }
    causes = {}
    for name, (code, bits) in kinds.items():
        header = images.header_for(array)
        header["datatype"], header["bitpix"] = code, bits
        content = images.image_bytes(array, header)
        (source / f"{name}.nii").write_bytes(content + b"\0" * (4 * 5 * 6 * (bits // 8)))
        causes[f"{name}.nii"] = {
            "complex64": "complex",
            "complex128": "complex",
            "rgb24": "rgb",
            "rgba32": "rgb",
        }.get(name, "float128|longdouble|128")
    samples = Path(nibabel.__file__).parent / "tests" / "data"
    shutil.copy(samples / "row_major.dconn.nii", source)
    causes["row_major.dconn.nii"] = "cifti"
    shutil.copy(samples / "analyze.hdr", source)
    (source / "analyze.img").write_bytes(b"\0" * 100_000)
    causes["analyze.hdr"] = "analyze"
    images.series(source, 2)
    finished = smooth(source, tmp_path / "out", "--sigma=1", ranks=RANKS, expect=1)
    failed = {Path(r["input"]).name: r["error"] for r in finished.report["images"] if r["status"] == "failed"}
    failed = {name.replace("analyze.img", "analyze.hdr"): error for name, error in failed.items()}
    assert sorted(failed) == sorted(causes)
    for name, cause in causes.items():
        assert re.search(cause, failed[name], re.IGNORECASE), (
            f"{name}: {failed[name]!r} does not say {cause!r}"
        )
    assert finished.report["totals"]["done"] == 2


def test_all_images_broken(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(5):
        empty(tmp_path / "in" / f"sample_{number}.nii.gz")
    finished = smooth(tmp_path / "in", tmp_path / "out", "--sigma=1", ranks=RANKS, expect=1)
    assert finished.report["totals"]["failed"] == 5
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_an_image_that_is_lost_after_planning(tmp_path):
    """A dangling link simulates a file that another job removed."""
    images.series(tmp_path / "in", 3)
    (tmp_path / "in" / "sample_2.nii.gz").unlink()
    (tmp_path / "in" / "sample_2.nii.gz").symlink_to("nowhere.nii.gz")
    finished = smooth(tmp_path / "in", tmp_path / "out", "--sigma=1", ranks=RANKS, expect=1)
    assert (finished.report["totals"]["done"], finished.report["totals"]["failed"]) == (2, 1)


def all_gone_within(running, seconds):
    """Waits for the end of the run and of all its processes. Returns its output."""
    finished = running.wait(seconds)
    until = time.monotonic() + max(0.5, seconds - finished.seconds)
    while program.processes(running.mark):
        assert time.monotonic() < until, f"processes are left: {program.processes(running.mark)}\n{finished}"
        time.sleep(0.1)
    return finished


@pytest.mark.ranks
@pytest.mark.parametrize("strategy", ["cyclic", "dynamic"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_panic_in_one_rank_ends_all(tmp_path, ranks, strategy):
    images.series(tmp_path / "in", 40, shape=(40, 40, 40))
    args = [
        "smooth",
        tmp_path / "in",
        "--output",
        tmp_path / "out",
        "--sigma=2",
        "--threads=1",
        "--strategy",
        strategy,
    ]
    with start(args, ranks=ranks, env={"NIIMPI_TEST_FAULT": "panic@1:2"}) as running:
        finished = all_gone_within(running, LIMIT_S)
    assert finished.code not in (0, 1, 2), finished
    assert re.search(r"rank\W{0,3}1\b", finished.stderr), f"the message must name the rank\n{finished}"
    assert re.search(r"sample_\d+\.nii\.gz", finished.stderr), f"the message must name the image\n{finished}"
    for path in (tmp_path / "out").rglob("sample_*.nii.gz"):
        np.asarray(nibabel.load(path).dataobj)


@pytest.mark.ranks
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_failing_rank_0_ends_all(tmp_path, ranks):
    images.series(tmp_path / "in", 10)
    args = ["smooth", tmp_path / "in", "--output", tmp_path / "out", "--sigma=2", "--threads=1"]
    with start(args, ranks=ranks, env={"NIIMPI_TEST_FAULT": "fail@0:0"}) as running:
        finished = all_gone_within(running, LIMIT_S)
    assert finished.code != 0, finished
    assert finished.stderr.strip(), "the failure must be printed"


# Each image takes one second longer, so that a rank works for minutes, far longer than LIMIT_S.
SLOW = {"NIIMPI_TEST_FAULT": "slow@0:1000"}


def slow_run(place):
    """A run that takes minutes, of one image under many names: (arguments, output folder)."""
    array = images.random_array(np.random.default_rng(9), (64, 64, 64), "float32")
    first = images.write(place / "in" / "sample_1.nii", array)
    for number in range(2, 401):
        os.link(first, place / "in" / f"sample_{number}.nii")
    words = ["smooth", place / "in", "--output", place / "out", "--sigma=1", "--threads=1", "--no-sync"]
    return words, place / "out"


def wait_for_output(running, output, ranks):
    """Waits until the run has written an image and all its ranks are alive."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if running.process.poll() is not None:
            raise AssertionError(f"ended too early\n{running.wait(5)}")
        if len(ranks_alive(running.mark)) == ranks and any(output.rglob("sample_*.nii")):
            return
        time.sleep(0.05)
    raise AssertionError("no output after 60 s")


@pytest.mark.ranks
@pytest.mark.parametrize("victim", [0, 1])
def test_kill_9_of_one_rank_ends_all(tmp_path, victim):
    args, output = slow_run(tmp_path)
    with start(args, ranks=2, env=SLOW) as running:
        wait_for_output(running, output, 2)
        os.kill(ranks_alive(running.mark)[victim], signal.SIGKILL)
        finished = all_gone_within(running, LIMIT_S)
    assert finished.code != 0, finished
    # A file with the final name is a complete image; unfinished files have other names.
    names = [path for path in output.rglob("*.nii") if re.fullmatch(r"sample_\d+\.nii", path.name)]
    assert 0 < len(names) < 400
    for path in names:
        assert path.stat().st_size == 352 + 4 * 64**3, path
