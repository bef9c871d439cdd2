"""Processes that outlive the command that started them: identifies, checks and ends them."""

import os
import signal
import time
from pathlib import Path


class ClusterError(Exception):
    """An error of the cluster, with a message for the user."""


def start_time(pid):
    """The start time of a living process in the kernel's ticks; None if it has ended or is a zombie."""
    try:
        # The fields follow the command's name, which is in parentheses and may contain any character.
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
    """Waits until `ready` returns true. After `timeout` seconds, raises an error with the text of `hint`."""
    limit = time.monotonic() + timeout
    while not ready():
        if time.monotonic() > limit:
            raise ClusterError(f"{what}: not ready after {timeout} s. {hint()}".strip())
        time.sleep(0.05)


class PidFile:
    """A recorded process: its id and start time, which distinguish it from a later process with the same
    id."""

    def __init__(self, path):
        self.path = Path(path)

    def write(self, pid):
        self.path.write_text(f"{pid} {start_time(pid)}\n")

    def pid(self):
        """The process id; None if the process is not alive."""
        try:
            pid, started = self.path.read_text().split()
        except (OSError, ValueError):
            return None
        return int(pid) if start_time(pid) == started else None

    def kill(self):
        """Kills the process and thereby its namespace, and waits until it has ended."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            wait_for(f"the end of process {pid}", lambda: self.pid() is None, 10)
        self.path.unlink(missing_ok=True)
