"""Jobs of the tests: submit a script of slurm/ as a user does, wait for its end, read its results."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from slurm_cluster import ROOT

# Set by make: openmpi or mpich.
MPI = os.environ.get("NIIMPI_MPI", "openmpi")
NIIMPI = os.path.realpath(os.environ.get("NIIMPI_BIN", "target/release/niimpi"))
SCRIPTS = ROOT / "slurm"
# Final states of a job. A requeued job returns to PENDING.
ENDED = {
    "COMPLETED",
    "FAILED",
    "TIMEOUT",
    "CANCELLED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "BOOT_FAIL",
    "DEADLINE",
    "PREEMPTED",
}


def environment():
    """The environment of the user's shell: niimpi is on the PATH, and waiting ranks yield the few cores."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "OMPI_", "PMI", "NIIMPI_", "MPI"))
    }
    kept["PATH"] = f"{os.path.dirname(NIIMPI)}:{kept['PATH']}"
    # srun's MPI interface if a script does not set it.
    kept["SLURM_MPI_TYPE"] = {"openmpi": "pmix", "mpich": "pmi2"}[MPI]
    kept["OMPI_MCA_mpi_yield_when_idle"] = "1"
    return kept


class User:
    """A user on the head node with a project folder that all nodes see."""

    def __init__(self, cluster, folder):
        self.cluster, self.folder = cluster, Path(folder)
        (self.folder / "logs").mkdir(parents=True)
        for script in SCRIPTS.glob("*.sbatch"):
            shutil.copy(script, self.folder)

    def run(self, *words, timeout=60, check=True, **variables):
        """Runs a command on the head node in the user's folder. Returns its exit code and output."""
        env = self.cluster.head.environment(
            **environment() | {key: str(value) for key, value in variables.items()}
        )
        words = self.cluster.head.words(*words, folder=self.folder)
        finished = subprocess.run(words, env=env, timeout=timeout, text=True, capture_output=True)
        if check:
            assert finished.returncode == 0, (
                f"$ {' '.join(map(str, words))}\n{finished.stdout}{finished.stderr}"
            )
        return finished

    def submit(self, script, *options, **variables):
        """Submits a script with sbatch. Variables are passed with --export, as the scripts recommend."""
        exported = ",".join(["ALL", *(f"{name}={value}" for name, value in variables.items())])
        finished = self.run("sbatch", "--parsable", f"--export={exported}", *options, script)
        return Job(self, finished.stdout.strip())

    def edit(self, script, old, new):
        """Changes a line in the user's copy of a script."""
        path = self.folder / script
        assert old in path.read_text(), f"{script} has no {old}"
        path.write_text(path.read_text().replace(old, new))

    def script(self, name, *lines):
        """Writes a small batch script for a test."""
        (self.folder / name).write_text("\n".join(["#!/bin/bash", *lines]) + "\n")
        return name


class Job:
    """A job or an array of jobs."""

    def __init__(self, user, number):
        self.user, self.number = user, number
        self.submitted = time.monotonic()

    def records(self):
        """The output of scontrol, one dictionary per task."""
        listed = self.user.run("scontrol", "--oneliner", "show", "job", self.number, timeout=20).stdout
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in listed.splitlines() if line.strip()]

    def states(self):
        return [record["JobState"] for record in self.records()]

    def wait(self, timeout, until=ENDED):
        """Waits until all tasks are in one of these states. After `timeout` seconds the test fails with the
        states and the output."""
        limit = time.monotonic() + timeout
        while True:
            records = self.records()
            if all(record["JobState"] in until for record in records):
                return records
            if time.monotonic() > limit:
                self.user.run("scancel", "--signal=KILL", self.number, check=False)
                self.user.run("scancel", self.number, check=False)
                raise AssertionError(
                    f"not in {sorted(until)} after {timeout} s: {self.states()}\n{self.output()}"
                )
            time.sleep(0.2)

    def ends(self, state="COMPLETED", code="0:0", timeout=90):
        """Waits for the end and checks state and exit code."""
        for record in self.wait(timeout):
            found = (record["JobState"], record["ExitCode"])
            assert found == (state, code), (
                f"job {self.number}: {found}, reason {record['Reason']}\n{self.output()}"
            )
        return self

    def output(self):
        """The output of the job's scripts and steps."""
        files = sorted(self.user.folder.glob(f"logs/*-{self.number}*.out"))
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')}" for path in files)

    def report(self, part=""):
        """The niimpi report of the script."""
        (path,) = self.user.folder.glob(f"logs/*-{self.number}{part}.json")
        return json.loads(path.read_text())

    def accounting(self, *options, fields="JobID,State,ExitCode,NodeList"):
        """Rows of sacct as dictionaries. Accounting is a few seconds behind the end of a job."""
        words = ["sacct", "-n", "-P", "-j", self.number, f"--format={fields}", *options]
        limit = time.monotonic() + 30
        while True:
            lines = self.user.run(*words).stdout.splitlines()
            rows = [dict(zip(fields.split(","), line.split("|"))) for line in lines]
            if all(row.get("State") != "RUNNING" for row in rows) or time.monotonic() > limit:
                return rows
            time.sleep(0.5)


def sums(folder):
    """Relative path → checksum of every result below a folder, without niimpi's own files."""
    folder = Path(folder)
    files = [path for path in folder.rglob("*") if path.is_file() and ".niimpi" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def filter_here(data, output, *filter):
    """Filters the images in one process, outside the cluster, to compare results with."""
    words = [
        NIIMPI,
        *map(str, filter),
        str(data),
        "--output",
        str(output),
        "--threads",
        "1",
        "--quiet",
        "--no-sync",
    ]
    finished = subprocess.run(words, timeout=120, text=True, capture_output=True, env=environment())
    assert finished.returncode == 0, finished.stderr
    return sums(output)


def synth(folder, count, *options):
    """Creates sample images."""
    subprocess.run(
        [NIIMPI, "synth", str(folder), "--count", str(count), *map(str, options)],
        timeout=120,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return Path(folder)
