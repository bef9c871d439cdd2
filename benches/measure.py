"""Measures CPU and wall seconds of pinned commands, and describes the machine."""

import mmap
import os
import platform
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass

# Variables that set the number of threads of programs that ignore the CPU affinity.
ONE_THREAD = {
    name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
}


# More memory than any of the programs needs.
MEMORY_BYTES = 1 << 30
# A file system in memory, and the space that the files of a benchmark need there.
IN_MEMORY = "/dev/shm"
ROOM_BYTES = 6 << 30


@dataclass
class Cost:
    """The cost of a command, including its children."""

    user_s: float
    system_s: float
    wall_s: float

    @property
    def cpu_s(self):
        """User and system seconds together."""
        return self.user_s + self.system_s


def cost(commands, cpus=None, env=None):
    """Runs commands one after the other on `cpus` (None: all) and returns their total cost.

    A command is a list of arguments, or a string for the shell. Raises RuntimeError if one fails."""
    total = Cost(0.0, 0.0, 0.0)
    for command in commands:
        if isinstance(command, str):
            command = ["bash", "-euo", "pipefail", "-c", command]
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            preexec_fn=(lambda: os.sched_setaffinity(0, cpus)) if cpus else None,
        )
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise RuntimeError(
                f"{command}: exit code {process.returncode}: {errors.decode(errors='replace')[-2000:]}"
            )
        total.user_s += usage.ru_utime
        total.system_s += usage.ru_stime
        total.wall_s += time.perf_counter() - started
    return total


def scratch(prefix):
    """A temporary folder, in memory if there is room and TMPDIR is not set.

    On a disk, the interrupts of write-back would be charged to whichever program runs at that moment."""
    free = shutil.disk_usage(IN_MEMORY).free if os.access(IN_MEMORY, os.W_OK) else 0
    with open("/proc/meminfo") as file:
        available = next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable:"))
    chosen = (
        IN_MEMORY if "TMPDIR" not in os.environ and min(free, available - MEMORY_BYTES) > ROOM_BYTES else None
    )
    return tempfile.TemporaryDirectory(prefix=prefix, dir=chosen)


def touch_memory():
    """Allocates and frees as much memory as a program may need, so that every program starts alike.

    A virtual machine may return free memory to its host. The next program that allocates it then pays several
    times its own system time for getting it back, and chance decides which program that is."""
    with mmap.mmap(-1, MEMORY_BYTES) as memory:
        for start in range(0, MEMORY_BYTES, mmap.PAGESIZE):
            memory[start] = 1


def machine():
    """Describes the machine: processor, caches, memory, system, and load by other programs."""
    lscpu = subprocess.run(
        ["lscpu"], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
    ).stdout
    fields = dict(line.split(":", 1) for line in lscpu.splitlines() if ":" in line)
    vectors = [flag for flag in ("sse2", "avx2", "avx512f") if flag in fields.get("Flags", "")]
    with open("/proc/meminfo") as meminfo:
        memory_kib = int(meminfo.readline().split()[1])
    return {
        "processor": fields.get("Model name", "").strip(),
        "cpus": os.cpu_count(),
        "vectors": vectors,
        "l2": fields.get("L2 cache", "").strip(),
        "l3": fields.get("L3 cache", "").strip(),
        "hypervisor": fields.get("Hypervisor vendor", "none").strip(),
        "memory_gib": round(memory_kib / 2**20, 1),
        "kernel": platform.release(),
        "load_before": os.getloadavg()[0],
    }


def version(command):
    """The first line of a program's version output."""
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except OSError:
        return "not installed"
    lines = (finished.stdout or finished.stderr).strip().splitlines()
    return lines[0].strip(" =") if lines else "unknown"
