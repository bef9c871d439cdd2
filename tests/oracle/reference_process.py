"""A reference program in a process of its own, run by a Python that has it: a task and a reply per line."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np


class ReferenceProcess:
    """Runs `script`, a file of this folder, in a `with`. Its first line has the version of the program."""

    def __init__(self, folder, python, script, version, **env):
        self.folder, self.python, self.script, self.version = Path(folder), python, script, version
        self.env, self.count, self.cpu_s = env, 0, 0.0

    def __enter__(self):
        self.process = subprocess.Popen(
            [self.python, Path(__file__).with_name(self.script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **self.env},
        )
        started = json.loads(self.process.stdout.readline() or "{}")
        assert started.get("version") == self.version, f"{self.python}: {started}"
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(60)

    def do(self, task):
        """The voxels of the result, and the CPU seconds."""
        self.count += 1
        result = self.folder / f"{self.script}_{self.count}.npy"
        task |= {"result": str(result)}
        self.process.stdin.write(json.dumps(task, default=str) + "\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline() or '{"error": "the process ended"}')
        assert "error" not in reply, f"{task}: {reply['error']}"
        self.cpu_s += reply["cpu_s"]
        voxels = np.load(result)
        result.unlink()
        return voxels, reply["cpu_s"]
