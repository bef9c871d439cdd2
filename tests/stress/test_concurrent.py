"""Concurrent runs in one output folder: no result is lost, mixed or replaced silently, for any options, hosts
and process namespaces."""

import itertools
import os
import random
import subprocess

import pytest

import outputs
from program import start
from test_faults import parts

MODES = {"none": [], "resume": ["--resume"], "overwrite": ["--overwrite"]}
# Ways to start a run with another host name, or without access to the processes of the others.
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
# With the same list, one run works and the others are refused. With overlapping lists, all work.
LISTS = {
    "same list": lambda number: range(1, outputs.COUNT + 1),
    "overlapping lists": lambda number: range(1 + 2 * number, outputs.COUNT - 3 + 2 * number),
}
MATRIX = [
    (modes, options, place, lists)
    for count in (2, 3)
    for modes in itertools.combinations_with_replacement(MODES, count)
    for options in ("same", "other")
    for place in PLACES
    for lists in LISTS
]
# `make stress` runs all of them, other targets a sample.
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
    "modes, options, place, lists",
    CASES,
    ids=["-".join(["+".join(modes), *rest]).replace(" ", "_") for modes, *rest in CASES],
)
def test_concurrent_runs_lose_mix_and_replace_nothing(tmp_path, source, modes, options, place, lists):
    if place != "same host" and not may_unshare():
        pytest.skip("namespaces are forbidden here")
    images, whole = source
    out = tmp_path / "out"
    pair = (outputs.BROAD, outputs.BROADER) if options == "other" else (outputs.BROAD,) * 2
    filters = [pair[number % 2] for number in range(len(modes))]
    stems = [{f"sample_{number}" for number in LISTS[lists](run)} for run in range(len(modes))]
    running = []
    for number, (mode, filter) in enumerate(zip(modes, filters)):
        report, listed = tmp_path / f"report-{number}.json", tmp_path / f"list-{number}.txt"
        listed.write_text("".join(f"{images / stem}.nii.gz\n" for stem in sorted(stems[number])))
        args = [*filter.words, "--list", listed, "--base", images, "--output", out]
        args += ["--threads=1", "--report", report, *MODES[mode]]
        running.append((start(args, prefix=PLACES[place](number)), report))
    ended = []
    for run, report in running:
        with run:
            ended.append(run.wait(120, report))
    assert all(finished.code in (0, 1, 2) for finished in ended), ended
    kinds = outputs.check_whole(outputs.digests(out), whole)
    assert not parts(out)
    # At least one run was the first and was not refused.
    assert any(finished.code != 2 for finished in ended), ended
    done = [made_by(finished) for finished in ended]
    for mode, filter, own, listed, finished in zip(modes, filters, done, stems, ended):
        if finished.code != 2:
            assert listed <= set(kinds), "every image must have a result, of this run or another"
        for name in own:
            # A result that a run reports remains, unless a run with --overwrite reports that it replaced it.
            replaced = any(
                kinds[name] == other and name in others and mode_of_other == "overwrite"
                for mode_of_other, other, others in zip(modes, filters, done)
            )
            assert kinds[name] == filter or replaced, (name, modes, filters, kinds, ended)
    summary = [(modes[number], ended[number].code, len(own)) for number, own in enumerate(done)]
    print(f"{options} options, {place}, {lists}: {summary}, {len(kinds)} results, none lost")


def made_by(finished):
    """The images that a run reports as done."""
    if finished.code == 2:
        return set()
    done = [image for image in finished.report["images"] if image["status"] == "done"]
    return {outputs.stem(image["output"].rpartition("/")[2]) for image in done}
