"""Kills at chosen system calls: strace kills the process at the n-th call. Nothing is lost or mixed."""

import collections
import itertools
import os
import random
import shutil

import pytest

import outputs
from filters import FILTERS
from program import run
from test_faults import parts

KILLS = int(os.environ.get("NIIMPI_STRESS_INJECTED", "8"))
# True: only calls on paths below the output folder count, because libraries make many such calls at the
# start.
LINKS = "link,linkat"
CALLS = {
    "write,pwrite64": False,
    "fsync,fdatasync": False,
    "openat": True,
    LINKS: True,
    "unlink,unlinkat": True,
    "rename,renameat,renameat2": True,
}

pytestmark = [
    pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed"),
    pytest.mark.timeout(300 + 30 * KILLS),
]


def traced(call, out, log, args, when=None):
    """Runs niimpi under strace and kills it at a thread's `when`-th such call. Returns the finished run."""
    words = ["strace", "-f", "-qq", "-o", log, "-e", f"trace={call}"]
    words += [word for folder in folders(out) for word in ("-P", folder)] if CALLS[call] else []
    if call == LINKS:
        # As on NFS and Lustre, which do not support RENAME_NOREPLACE.
        words += ["-e", f"trace={call},renameat2", "-e", "inject=renameat2:error=EINVAL"]
    words += ["-e", f"inject={call}:signal=KILL:when={when}"] if when else []
    finished = run(args, prefix=words)
    assert finished.code in ((0, -9, 137) if when else (0,)), finished
    return finished


def folders(out):
    return [out, out / ".niimpi"]


def most_calls(log):
    """The largest number of calls of a thread, because strace counts per thread."""
    threads = collections.Counter(
        line.split()[0]
        for line in log.read_text().splitlines()
        if "(" in line and "resumed>" not in line and "(INJECTED)" not in line
    )
    return max(threads.values(), default=0)


# An earlier filter, the one that is killed, the endings of images and the length of their axes.
CASES = [(outputs.BROAD, outputs.BROADER, suffix, 56) for suffix in (".nii.gz", ".hdr")]
CASES += [(filter.changed, filter, ".nii.gz", 32) for filter in FILTERS[1:]]


@pytest.mark.parametrize(
    ("old", "new", "suffix", "length"), CASES, ids=[f"{new.name}{suffix}" for _, new, suffix, _ in CASES]
)
def test_a_kill_at_a_system_call_loses_and_mixes_nothing(tmp_path, old, new, suffix, length):
    rng = random.Random(f"{os.environ.get('NIIMPI_STRESS_SEED', '1')}{new.name}{suffix}")
    source, whole = outputs.make_source(tmp_path, suffix, (old, new), length)
    out, log = tmp_path / "out", tmp_path / "calls"
    words = [*new.words, source, "--output", out, "--threads=2"]

    def begin(replacing):
        shutil.rmtree(out, ignore_errors=True)
        if replacing:
            shutil.copytree(tmp_path / f"whole-{old.name}", out, copy_function=shutil.copy2)
        return [*words, *(["--overwrite"] if replacing else [])]

    # The calls of an uninterrupted run, for new results and for replaced results.
    calls = {}
    for call, replacing in itertools.product(CALLS, (False, True)):
        finished = traced(call, out, log, begin(replacing))
        assert finished.code == 0 and outputs.digests(out) == whole[new], finished
        if count := most_calls(log):
            calls[call, replacing] = count
    assert {call for call, _ in calls} == set(CALLS), calls
    kills = collections.Counter()
    turns = itertools.cycle(rng.sample(sorted(calls), len(calls)))
    for _, (call, replacing) in zip(range(20 * KILLS), turns):
        if sum(kills.values()) >= KILLS // len(CASES):
            break
        # In this run, no thread may have reached that number of calls.
        when = rng.randint(1, max(1, calls[call, replacing] * 2 // 3))
        args = begin(replacing)
        if traced(call, out, log, args, when).code == 0:
            continue
        kills[call, replacing] += 1
        at = f"{call} {when}, {'replaced' if replacing else 'new'}"
        left = outputs.check_whole(outputs.digests(out), whole)
        assert replacing or old not in left.values(), at
        assert suffix == ".hdr" or not replacing or len(left) == outputs.COUNT, f"{at}: a result is lost"
        resumed = run([*args, "--resume"])
        assert resumed.code == 0, f"after {at}\n{resumed}"
        assert outputs.digests(out) == whole[new], f"after {at}"
        assert not parts(out), f"after {at}"
    assert sum(kills.values()) >= KILLS // len(CASES), f"only {kills} were killed"
    table = {f"{call} ({'replaced' if new else 'new'})": count for (call, new), count in kills.items()}
    print(f"{new.name}{suffix}: {sum(kills.values())} kills at system calls, {table}")
