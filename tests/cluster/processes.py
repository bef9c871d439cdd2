"""Processes that outlive the command that started them: who they are, whether they live, how they end."""

import os
import signal
import time
from pathlib import Path


class ClusterError(Exception):
    """What went wrong with the cluster, in words for the person who asked for it."""


def start_time(pid):
    """When a living process was started, in the kernel's ticks; None for one that is gone or a zombie."""
    try:
        # The fields follow the command's name, which stands in parentheses and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def children(pid):
    """Ids of the processes whose parent is `pid`."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[1] == str(pid):
                found.append(int(entry))
    return found


def wait_for(what, ready, timeout, hint=lambda: ""):
    """Asks `ready` until it says yes; beyond `timeout` seconds an error with what `hint` knows."""
    limit = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > limit:
            raise ClusterError(f"{what}: not after {timeout} s. {hint()}".strip())
        time.sleep(0.05)


class PidFile:
    """A process on record: its id and its start time, so that another process with the same id is not taken
    for it."""

    def __init__(self, path):
        self.path = Path(path)

    def write(self, pid):
        self.path.write_text(f"{pid} {start_time(pid)}\n")

    def pid(self):
        """The process's id; None when it is not alive."""
        try:
            pid, started = self.path.read_text().split()
        except (OSError, ValueError):
            return None
        return int(pid) if start_time(pid) == started else None

    def kill(self):
        """Ends the process, and with it its namespace, and waits until it is gone."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            wait_for(f"the end of process {pid}", lambda: self.pid() is None, 10)
        self.path.unlink(missing_ok=True)
