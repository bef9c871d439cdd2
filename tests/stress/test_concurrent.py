"""Concurrent runs in one output folder: whatever their options, hosts and process namespaces, no result is lost, mixed or
replaced silently."""

import itertools
import os
import random
import subprocess

import pytest

import outputs
from program import start
from test_faults import parts

MODES = {"none": [], "resume": ["--resume"], "overwrite": ["--overwrite"]}
# Ways to start a run so that it does not see the others' processes or does not share their host's name.
PLACES = {
    "same host": lambda number: [],
    "other host name": lambda number: [
        "unshare",
        "--uts",
        "sh",
        "-c",
        f'hostname node{number} && exec "$@"',
        "-",
    ],
    "other pid namespace": lambda number: ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"],
}
MATRIX = [
    (modes, options, place)
    for count in (2, 3)
    for modes in itertools.combinations_with_replacement(MODES, count)
    for options in ("same", "other")
    for place in PLACES
]
# All of them in `make stress`, a sample otherwise.
SAMPLE = int(os.environ.get("NIIMPI_STRESS_RIVALS", "6"))
CASES = MATRIX if SAMPLE >= len(MATRIX) else random.Random(7).sample(MATRIX, SAMPLE)


def may_unshare():
    try:
        return (
            subprocess.run(["unshare", "--uts", "--pid", "--fork", "true"], capture_output=True).returncode
            == 0
        )
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rivals")
    return outputs.make_source(folder, ".nii.gz")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "modes, options, place", CASES, ids=["-".join(["+".join(m), o, p.replace(" ", "_")]) for m, o, p in CASES]
)
def test_concurrent_runs_lose_mix_and_replace_nothing(tmp_path, source, modes, options, place):
    if place != "same host" and not may_unshare():
        pytest.skip("namespaces are forbidden here")
    images, whole = source
    out = tmp_path / "out"
    sigmas = [outputs.SIGMAS[number % 2 if options == "other" else 0] for number in range(len(modes))]
    running = []
    for number, (mode, sigma) in enumerate(zip(modes, sigmas)):
        report = tmp_path / f"report-{number}.json"
        args = [
            "smooth",
            images,
            "--output",
            out,
            f"--sigma={sigma}",
            "--threads=1",
            "--report",
            report,
            *MODES[mode],
        ]
        running.append((start(args, prefix=PLACES[place](number)), report))
    ended = []
    for run, report in running:
        with run:
            ended.append(run.wait(120, report))
    for finished in ended:
        assert finished.code in (0, 1, 2), finished
    found = outputs.digests(out)
    kinds = outputs.check_whole(found, whole)
    assert not parts(out)
    # Nobody is refused by nobody: one run at least was the first, and its images are there.
    assert any(finished.code != 2 for finished in ended), ended
    done = [
        {
            outputs.stem(image["output"].rpartition("/")[2])
            for image in finished.report["images"]
            if image["status"] == "done"
        }
        if finished.code != 2
        else set()
        for finished in ended
    ]
    assert set().union(*done) <= set(kinds), "a result that was reported is there"
    if options == "same" or "overwrite" not in modes:
        # Without --overwrite, what a run reports as its result stays its result.
        for names, sigma in zip(done, sigmas):
            assert all(kinds[name] == sigma for name in names), (modes, kinds, names)
    if options == "same":
        assert len(kinds) == outputs.COUNT, "together they did all"
