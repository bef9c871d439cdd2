"""Kills at chosen system calls: strace ends the process at the n-th call of a kind. Nothing finished is lost or mixed."""

import os
import random
import shutil

import pytest

import outputs
from program import run
from test_faults import parts

KILLS = int(os.environ.get("NIIMPI_STRESS_INJECTED", "8"))
CALLS = ["write,pwrite64", "fsync", "openat", "linkat", "unlinkat", "renameat,renameat2,rename"]

pytestmark = [
    pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed"),
    pytest.mark.timeout(120 + 30 * KILLS),
]


def killed_at(call, when, args):
    """Runs niimpi until a thread of it makes its `when`-th such call; whether it was killed."""
    inject = [f"--inject={call}:signal=KILL:when={when}"]
    finished = run(args, prefix=["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", *inject])
    assert finished.code in (0, -9, 137), finished
    return finished.code != 0


@pytest.mark.parametrize("suffix", [".nii.gz", ".hdr"])
def test_a_kill_at_a_system_call_loses_and_mixes_nothing(tmp_path, suffix):
    rng = random.Random(f"{os.environ.get('NIIMPI_STRESS_SEED', '1')}{suffix}")
    source, whole = outputs.make_source(tmp_path, suffix)
    old, new = outputs.SIGMAS
    kills = 0
    for attempt in range(20 * KILLS):
        if kills >= KILLS // 2:
            break
        out = tmp_path / f"out-{attempt}"
        replacing = attempt % 2 == 1
        if replacing:
            shutil.copytree(tmp_path / f"whole-{old}", out, copy_function=shutil.copy2)
        args = ["smooth", source, "--output", out, f"--sigma={new}", "--threads=2"]
        call, when = CALLS[attempt % len(CALLS)], rng.randrange(1, 40)
        if not killed_at(call, when, [*args, *(["--overwrite"] if replacing else [])]):
            shutil.rmtree(out)
            continue
        kills += 1
        left = outputs.check_whole(outputs.digests(out), whole)
        assert replacing or old not in left.values(), f"{call} {when}"
        resumed = run([*args, "--resume", *(["--overwrite"] if replacing else [])])
        assert resumed.code == 0, f"after {call} {when}\n{resumed}"
        assert outputs.digests(out) == whole[new], f"after {call} {when}"
        assert not parts(out), f"after {call} {when}"
        shutil.rmtree(out)
    assert kills >= KILLS // 2, f"only {kills} runs were killed"
    print(f"{suffix}: {kills} kills at system calls")
