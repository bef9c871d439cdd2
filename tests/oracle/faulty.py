"""The environment in which calls of the C library fail, by the library that faulty.c makes."""

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def faulty(tmp_path_factory):
    """The environment in which the C library makes calls fail as `faults` says."""
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler for the library of faults")
    library = tmp_path_factory.mktemp("faulty") / "faulty.so"
    source = Path(__file__).with_name("faulty.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)

    def environment(*faults, go=None):
        env = {"LD_PRELOAD": library, "NIIMPI_FAULTS": ",".join(faults)}
        # The run's own environment keeps no other NIIMPI_ variable; these are the library's.
        return env | ({"NIIMPI_FAULT_GO": go} if go else {})

    return environment
