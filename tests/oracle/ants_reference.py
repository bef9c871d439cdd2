"""ANTs on one thread, and nilearn and SimpleITK, in a process of their own, and where to find it.

Environment: NIIMPI_ANTS_PYTHON, a Python with antspyx; default: that of .venv-ants, which `.ci/install ants`
creates if there is a wheel.
"""

import os
import platform
from pathlib import Path

from reference_process import ReferenceProcess

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("NIIMPI_ANTS_PYTHON", ROOT / ".venv-ants" / "bin" / "python"))
VERSION = "0.6.3"

# Other builds may use fused multiply-add, which changes bits.
MISSING = None
if platform.machine() != "x86_64":
    MISSING = "ANTs is compared on x86-64 only"
elif not PYTHON.exists():
    MISSING = f"{PYTHON} with antspyx=={VERSION} is missing: .ci/install ants"


class Ants(ReferenceProcess):
    """A process that denoises and smooths images. Use it in a `with`."""

    def __init__(self, folder, threads=1):
        env = {"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(threads)}
        super().__init__(folder, PYTHON, "ants_worker.py", VERSION, **env)

    def denoise(self, image, model, patch, search, **more):
        """The voxels of the denoised image, and the CPU seconds. `more`: mask (its path) and shrink."""
        return self.do({"image": str(image), "model": model, "patch": patch, "search": search, **more})

    def smooth(self, tool, image, fwhm):
        """The voxels that ants, itk or nilearn smooths to."""
        return self.do({"image": str(image), "tool": tool, "fwhm": fwhm})[0]
