"""An environment in which calls of the C library fail, made with the library of faulty.c."""

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def faulty(tmp_path_factory):
    """Returns environments in which calls of the C library fail as given by `faults`."""
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler for the library of faults")
    library = tmp_path_factory.mktemp("faulty") / "faulty.so"
    source = Path(__file__).with_name("faulty.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)

    def environment(*faults, go=None):
        env = {"LD_PRELOAD": library, "NIIMPI_FAULTS": ",".join(faults)}
        # Variables of faulty.c. A run's environment contains no other NIIMPI_ variables.
        return env | ({"NIIMPI_FAULT_GO": go} if go else {})

    return environment
