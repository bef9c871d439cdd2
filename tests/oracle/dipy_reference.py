"""The reference of classic and blockwise non-local means: dipy on one thread, in a process of its own.

Environment: NIIMPI_DIPY_PYTHON, a Python with dipy; by default that of .venv-dipy, which `.ci/install dipy`
makes where there is a wheel.
"""

import json
import os
import platform
import subprocess
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("NIIMPI_DIPY_PYTHON", ROOT / ".venv-dipy" / "bin" / "python"))
VERSION = "1.12.1"


def _missing():
    """Why there is no comparison; None where there is."""
    if platform.machine() != "x86_64":
        return "dipy is compared on x86-64 only"
    # glibc's exp, which dipy calls, has another last bit without fused multiply-add.
    if " fma " not in Path("/proc/cpuinfo").read_text():
        return "dipy is compared on processors with FMA only"
    if not PYTHON.exists():
        return f"{PYTHON} with dipy=={VERSION} is missing: .ci/install dipy"
    return None


MISSING = _missing()


class Dipy:
    """A process that denoises images with dipy. Use it in a `with`."""

    def __init__(self, folder):
        self.folder, self.count, self.cpu_s = Path(folder), 0, 0.0

    def __enter__(self):
        self.process = subprocess.Popen(
            [PYTHON, Path(__file__).with_name("dipy_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started = json.loads(self.process.stdout.readline() or "{}")
        assert started.get("version") == VERSION, f"{PYTHON}: {started}"
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(60)

    def denoise(self, image, method, sigma=None, patch=1, block=None, rician=True, mask=None):
        """The voxels of the denoised image, in double."""
        self.count += 1
        result = self.folder / f"dipy_{self.count}.npy"
        task = {
            "image": str(image),
            "method": method,
            "sigma": sigma,
            "patch": patch,
            "block": block,
            "rician": rician,
            "mask": None if mask is None else str(mask),
            "result": str(result),
        }
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline() or '{"error": "dipy ended"}')
        assert "error" not in reply, f"{image}: {reply['error']}"
        self.cpu_s += reply["cpu_s"]
        voxels = np.load(result)
        result.unlink()
        return voxels
