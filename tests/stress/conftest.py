"""Makes the modules of tests/oracle (program, images, checks) available to the stress tests."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "oracle"))

import program  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "ranks: needs a build with MPI and a launcher")
    if not (program.NIIMPI and os.access(program.NIIMPI, os.X_OK)):
        raise pytest.UsageError("set NIIMPI_BIN to the program, for example target/release/niimpi")
    program.NIIMPI = os.path.realpath(program.NIIMPI)
