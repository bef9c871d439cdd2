"""Wrong usage and set-up: every rank exits with code 2, one message is printed, and nothing is written."""

import os
import re

import pytest

import images
from program import HAS_RANKS, other_launcher, run

pytestmark = pytest.mark.timeout(120)

RANKS = 3 if HAS_RANKS else None


@pytest.fixture
def place(tmp_path):
    """Two folders with images, an empty one, and lists. Commands run here, so paths are relative."""
    images.series(tmp_path / "in", 3)
    images.series(tmp_path / "more", 2)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "sample_2.nii.gz").write_bytes(b"kept")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.txt").write_text("\n\n")
    (tmp_path / "file").write_text("a file where a folder should be")
    return tmp_path


GOOD = ["in", "--output", "out", "--sigma=1"]

# Name: (arguments after `smooth`, what the message must contain)
CASES = {
    "no such folder": (["nowhere", "--output", "out", "--sigma=1"], "nowhere"),
    "one of two folders missing": (["in", "nowhere", "--output", "out", "--sigma=1"], "nowhere"),
    "no such list": (["--list", "nowhere.txt", "--output", "out", "--sigma=1"], "nowhere.txt"),
    "output exists": (["in", "--output", "full", "--sigma=1"], "sample_2.nii.gz"),
    "output is a file": (["in", "--output", "file", "--sigma=1"], "file"),
    "two inputs for one output": (["in", "more", "--output", "out", "--sigma=1"], "sample_1.nii.gz"),
    "one name for all": (["in", "--output", "out", "--sigma=1", "--name", "same.nii.gz"], "same.nii.gz"),
    "output inside input": (["in", "--output", "in/out", "--sigma=1"], "in/out"),
    "output is input": (["in", "--output", "in", "--sigma=1"], "in"),
    "output is input with overwrite": (["in", "--output", "in", "--sigma=1", "--overwrite"], "in"),
    "negative sigma": (["in", "--output", "out", "--sigma=-1"], "sigma"),
    "negative sigma on an axis": (["in", "--output", "out", "--sigma=1,-2,1"], "sigma"),
    "infinite sigma": (["in", "--output", "out", "--sigma=inf"], "sigma"),
    "sigma NaN": (["in", "--output", "out", "--sigma=nan"], "sigma"),
    "sigma no number": (["in", "--output", "out", "--sigma=wide"], "sigma"),
    "sigma for four axes": (["in", "--output", "out", "--sigma=1,2,3,4"], "sigma"),
    "negative fwhm": (["in", "--output", "out", "--fwhm=-6"], "fwhm"),
    "infinite fwhm": (["in", "--output", "out", "--fwhm=inf"], "fwhm"),
    "neither sigma nor fwhm": (["in", "--output", "out"], "--sigma"),
    "both sigma and fwhm": ([*GOOD, "--fwhm=6"], "--fwhm"),
    "unknown boundary": ([*GOOD, "--boundary=grid"], "reflect"),
    "negative truncate": ([*GOOD, "--truncate=-1"], "truncate"),
    "truncate NaN": ([*GOOD, "--truncate=nan"], "truncate"),
    "unknown output type": ([*GOOD, "--output-type=complex64"], "complex64"),
    "unknown strategy": ([*GOOD, "--strategy=random"], "dynamic"),
    "no threads": ([*GOOD, "--threads=0"], "threads"),
    "shard beyond the last": ([*GOOD, "--shard=4/3"], "shard"),
    "shard without sense": ([*GOOD, "--shard=x"], "shard"),
    "compression beyond 9": ([*GOOD, "--compression=10"], "compression"),
    "empty folder": (["empty", "--output", "out", "--sigma=1"], "empty|no image"),
    "empty list": (["--list", "empty.txt", "--output", "out", "--sigma=1"], "empty|no image"),
    "list of blank lines": (["--list", "blank.txt", "--output", "out", "--sigma=1"], "empty|no image|blank"),
    "no input": (["--output", "out", "--sigma=1"], "input|INPUT|image"),
    "no output": (["in", "--sigma=1"], "--output"),
    "unknown option": ([*GOOD, "--sygma=1"], "--sygma"),
}


def message_lines(text):
    """Lines of stderr from the program, without the messages of launchers."""
    kept, inside = [], False
    for line in text.splitlines():
        ruler = re.fullmatch(r"\s*[-=*]{10,}\s*", line)
        if ruler:
            inside = not inside
        elif (
            not inside
            and line.strip()
            and not re.match(r"\s*(=|mpi(run|exec)|\[proxy|\[mpiexec|Primary job)", line)
        ):
            kept.append(line.strip())
    return kept


def check_refused(finished, said, place, before):
    """Checks exit code 2, a single message, and that nothing was written."""
    assert finished.code == 2, f"exit {finished.code}\n{finished}"
    text = "\n".join(message_lines(finished.stderr))
    assert re.search(said, text), f"no {said!r} in the message\n{finished}"
    assert "panicked" not in finished.stderr, finished
    errors = re.findall(r"^\s*(?:\S+ )?error\b", text, re.IGNORECASE | re.MULTILINE)
    assert len(errors) <= 1, f"{len(errors)} messages\n{finished}"
    lines = [line for line in text.splitlines() if len(line) > 12]
    assert len(lines) == len(set(lines)), f"a line is printed twice\n{finished}"
    assert images.tree(place) == before, f"something was written\n{finished}"


@pytest.mark.parametrize("case", CASES)
def test_refused_by_every_rank(place, case):
    args, said = CASES[case]
    before = images.tree(place)
    finished = run(["smooth", *args], ranks=RANKS, cwd=place)
    check_refused(finished, said, place, before)


@pytest.mark.ranks
def test_a_usage_error_is_never_cut_off(place):
    """If a silent rank exits first, mpirun ends the rank that prints the message. Ten times, because it is a
    race."""
    before = images.tree(place)
    for _ in range(10):
        finished = run(["smooth", *GOOD, "--sygma=1"], ranks=4, cwd=place)
        check_refused(finished, "--sygma(.|\n)*--help", place, before)


@pytest.mark.parametrize("case", ["no such folder", "unknown boundary", "empty list"])
def test_refused_without_a_launcher(place, case):
    args, said = CASES[case]
    before = images.tree(place)
    check_refused(run(["smooth", *args], cwd=place), said, place, before)


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["smooth", "--help"], ["synth", "--help"]])
def test_help_needs_no_mpi(tmp_path, args):
    finished = run(args, cwd=tmp_path, timeout=20)
    assert finished.code == 0 and finished.stdout.strip() and not finished.stderr.strip(), finished


# Environment variables of launchers. A singleton sees them while its MPI reports a world of one process.
STRANGE = {
    "a job of Open MPI": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
    "a job with PMI": {"PMI_SIZE": "2", "PMI_RANK": "0"},
    "a job of MPICH's hydra": {"MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "0"},
    "a step of Slurm": {
        "SLURM_JOB_ID": "77",
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_PROCID": "0",
    },
}


@pytest.mark.ranks
@pytest.mark.parametrize("case", STRANGE)
def test_a_singleton_in_a_job_of_several_is_refused(place, case):
    before = images.tree(place)
    finished = run(["smooth", *GOOD], cwd=place, env=STRANGE[case])
    check_refused(finished, "(?i)launch|srun|mpirun|rank", place, before)


@pytest.mark.ranks
def test_the_other_mpis_launcher_is_refused(place):
    """mpirun of the other MPI starts singletons, each of which would process the whole list."""
    other = other_launcher()
    if other is None:
        pytest.skip("the other MPI is not installed")
    kind, path = other
    before = images.tree(place)
    finished = run(["smooth", *GOOD], ranks=2, cwd=place, mpi=kind, mpirun=path)
    assert finished.code == 2, f"exit {finished.code}\n{finished}"
    assert re.search("(?i)launch|srun|mpirun", finished.stderr), finished
    assert images.tree(place) == before, f"something was written\n{finished}"


def test_an_output_folder_without_permission(place):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (place / "locked").mkdir(mode=0o555)
    before = images.tree(place)
    finished = run(["smooth", "in", "--output", "locked/out", "--sigma=1"], ranks=RANKS, cwd=place)
    check_refused(finished, "(?i)permission", place, before)
