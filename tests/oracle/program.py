"""Starts the program under test on one or several ranks, waits with a time limit, and leaves no process
behind."""

import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

NIIMPI = os.environ.get("NIIMPI_BIN", "")
MPI = os.environ.get("NIIMPI_MPI", "openmpi")  # openmpi | mpich | none (a build without MPI)
MPIRUN = os.environ.get("NIIMPI_MPIRUN", f"mpirun.{MPI}")
HAS_RANKS = MPI != "none"

# Every process of a run inherits this variable, which identifies the run's processes.
MARK = "NIIMPI_TEST_RUN"


@dataclass(repr=False)
class Finished:
    """The result of a run: exit code, output, seconds, and the report if one was requested."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    report_path: Path | None = None
    command: list = field(default_factory=list)

    @property
    def report(self):
        assert self.report_path.exists(), f"no report was written\n{self}"
        return json.loads(self.report_path.read_text())

    def __repr__(self):
        streams = f"-- stdout\n{self.stdout}\n-- stderr\n{self.stderr}"
        return f"$ {' '.join(self.command)}\nexit {self.code}\n{streams}"


def launcher(ranks, mpi=None, mpirun=None):
    """The launcher command for `ranks` ranks on this machine, also with fewer cores; empty for ranks=None."""
    mpi = mpi or MPI
    if ranks is None or mpi == "none":
        return []
    words = [mpirun or MPIRUN, "-n", str(ranks)]
    if mpi == "openmpi":
        words += ["--oversubscribe", "--bind-to", "none"]
        if os.geteuid() == 0:
            words += ["--allow-run-as-root"]
    return words


def environment(**extra):
    """The environment of a run: the current one without variables of a surrounding job."""
    strange = ("OMPI_COMM_", "PMI_", "PMIX_", "SLURM_", "MPI_LOCAL", "NIIMPI_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
    kept["OMPI_MCA_mpi_yield_when_idle"] = "1"
    kept["OMPI_MCA_btl_vader_single_copy_mechanism"] = "none"
    # These tests use one machine, so MPI need not search for networks.
    kept["OMPI_MCA_oob_tcp_if_include"] = "lo"
    kept["OMPI_MCA_btl_tcp_if_include"] = "lo"
    kept["LC_ALL"] = "C.UTF-8"
    kept.update({name: str(value) for name, value in extra.items()})
    return kept


def processes(mark):
    """Ids of the living processes with the mark."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if wanted not in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0"):
                continue
            # The state follows the command's name, which is in parentheses.
            if Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                found.append(int(entry))
        except (OSError, IndexError):
            pass
    return found


def variables(process):
    """The environment with which a process was started."""
    try:
        text = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)


def ranks_alive(mark):
    """Rank → process id of the living ranks of a run."""
    found = {}
    for process in processes(mark):
        try:
            name = os.path.basename(os.readlink(f"/proc/{process}/exe"))
        except OSError:
            continue
        if name != os.path.basename(os.path.realpath(NIIMPI)):
            continue
        known = variables(process)
        rank = known.get("OMPI_COMM_WORLD_RANK", known.get("PMI_RANK", "0"))
        found[int(rank)] = process
    return found


def kill_all(mark):
    """Ends every process of a run."""
    for _ in range(50):
        left = processes(mark)
        if not left:
            return
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.1)


class Running:
    """A run in progress. Use it in a `with` statement, which ends all its processes."""

    def __init__(self, command, env, cwd=None):
        self.command = [str(word) for word in command]
        self.mark = uuid.uuid4().hex
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**env, MARK: self.mark},
            cwd=cwd,
            start_new_session=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        kill_all(self.mark)
        self.process.communicate()

    def wait(self, timeout, report_path=None):
        """Waits for the end. After `timeout` seconds, kills all processes and fails the test."""
        try:
            stdout, stderr = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            kill_all(self.mark)
            stdout, stderr = self.process.communicate()
            raise AssertionError(
                f"still running after {timeout} s\n$ {' '.join(self.command)}\n-- stdout\n{stdout}\n-- "
                f"stderr\n{stderr}"
            ) from None
        seconds = time.monotonic() - self.started
        return Finished(self.process.returncode, stdout, stderr, seconds, report_path, self.command)


def start(args, ranks=None, env=None, cwd=None, prefix=(), program=None, mpi=None, mpirun=None):
    """Starts the program with `args` on `ranks` ranks (None: without a launcher) and returns at once."""
    command = [*prefix, *launcher(ranks, mpi, mpirun), program or NIIMPI, *args]
    return Running(command, environment(**(env or {})), cwd)


def run(args, ranks=None, timeout=60, report_path=None, **options):
    """Runs the program to its end. See `start` for the options."""
    with start(args, ranks, **options) as running:
        return running.wait(timeout, report_path)


def smooth(
    inputs,
    output,
    *options,
    command="smooth",
    ranks=None,
    threads=1,
    timeout=60,
    expect=0,
    report=None,
    sync=False,
    **others,
):
    """Runs `niimpi smooth` or another filter and checks its exit code. The report is written next to the
    output folder."""
    inputs = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    # The result of a file lands directly in the output folder, because `/./` marks its base.
    inputs = [
        f"{Path(i).parent}/./{Path(i).name}" if Path(i).is_absolute() and not Path(i).is_dir() else i
        for i in inputs
    ]
    report = report or Path(f"{output}.report.json")
    sync = [] if sync else ["--no-sync"]
    args = [command, *inputs, "--output", output, "--threads", threads, "--report", report, *sync, *options]
    finished = run([str(arg) for arg in args], ranks, timeout, report, **others)
    assert finished.code == expect, f"exit {finished.code}, expected {expect}\n{finished}"
    return finished


def other_launcher():
    """The launcher of the other MPI: (kind, path), or None if it is not installed."""
    kind = {"openmpi": "mpich", "mpich": "openmpi"}.get(MPI)
    path = kind and shutil.which(f"mpirun.{kind}")
    return (kind, path) if path else None
