"""The reference of classic and blockwise non-local means: dipy on one thread, in a process of its own.

Environment: NIIMPI_DIPY_PYTHON, a Python with dipy; by default that of .venv-dipy, which `.ci/install dipy`
makes where there is a wheel.
"""

import os
import platform
from pathlib import Path

from reference_process import ReferenceProcess

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


class Dipy(ReferenceProcess):
    """A process that denoises images with dipy. Use it in a `with`."""

    def __init__(self, folder):
        super().__init__(folder, PYTHON, "dipy_worker.py", VERSION, OMP_NUM_THREADS="1")

    def denoise(self, image, method, sigma=None, patch=1, block=None, rician=True, mask=None):
        """The voxels of the denoised image, in double."""
        task = {"image": image, "method": method, "sigma": sigma, "patch": patch, "block": block}
        return self.do({**task, "rician": rician, "mask": mask})[0]
