"""ANTs on one thread, and nilearn and SimpleITK, in a process of their own, and where to find it.

Environment: NIIMPI_ANTS_PYTHON, a Python with antspyx; default: that of .venv-ants, which `.ci/install ants`
creates if there is a wheel.
"""

import json
import os
import platform
import subprocess
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("NIIMPI_ANTS_PYTHON", ROOT / ".venv-ants" / "bin" / "python"))
VERSION = "0.6.3"

# Other builds may use fused multiply-add, which changes bits.
MISSING = None
if platform.machine() != "x86_64":
    MISSING = "ANTs is compared on x86-64 only"
elif not PYTHON.exists():
    MISSING = f"{PYTHON} with antspyx=={VERSION} is missing: .ci/install ants"


class Ants:
    """A process that denoises and smooths images. Use it in a `with`."""

    def __init__(self, folder, threads=1):
        self.folder, self.threads, self.count, self.cpu_s = Path(folder), threads, 0, 0.0

    def __enter__(self):
        env = {**os.environ, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(self.threads)}
        self.process = subprocess.Popen(
            [PYTHON, Path(__file__).with_name("ants_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
        )
        started = json.loads(self.process.stdout.readline() or "{}")
        assert started.get("version") == VERSION, f"{PYTHON}: {started}"
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(60)

    def denoise(self, image, model, patch, search, **more):
        """The voxels of the denoised image, and the CPU seconds. `more`: mask (its path) and shrink."""
        return self.do({"image": str(image), "model": model, "patch": patch, "search": search, **more})

    def smooth(self, tool, image, fwhm):
        """The voxels that ants, itk or nilearn smooths to."""
        return self.do({"image": str(image), "tool": tool, "fwhm": fwhm})[0]

    def do(self, task):
        self.count += 1
        result = self.folder / f"ants_{self.count}.npy"
        task |= {"result": str(result)}
        self.process.stdin.write(json.dumps(task, default=str) + "\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline() or '{"error": "ANTs ended"}')
        assert "error" not in reply, f"{task}: {reply['error']}"
        self.cpu_s += reply["cpu_s"]
        voxels = np.load(result)
        result.unlink()
        return voxels, reply["cpu_s"]
