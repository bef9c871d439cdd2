"""Fixtures of the scaling and planning tests. The environment is that of tests/oracle."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "oracle"))

import program  # noqa: E402


def pytest_configure():
    if not (program.NIIMPI and os.access(program.NIIMPI, os.X_OK)):
        raise pytest.UsageError("set NIIMPI_BIN to the program, for example target/release/niimpi")
    program.NIIMPI = os.path.realpath(program.NIIMPI)


def pytest_collection_modifyitems(items):
    if not program.HAS_RANKS:
        for item in items:
            if item.get_closest_marker("ranks"):
                item.add_marker(pytest.mark.skip(reason="this build has no MPI"))


def synth(folder, count, shape, datatype="uint8", seed=1):
    """Creates sample images and returns their folder."""
    words = ["synth", folder, "--count", count, "--shape", shape, "--datatype", datatype, "--seed", seed]
    finished = program.run([str(word) for word in words])
    assert finished.code == 0, finished
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Forty small images."""
    return synth(tmp_path_factory.mktemp("data") / "images", 40, "40,44,40")


@pytest.fixture(scope="session")
def mixed(tmp_path_factory):
    """Sixty images of three shapes and two datatypes."""
    folder = tmp_path_factory.mktemp("mixed") / "images"
    kinds = [("40,44,40", "uint8"), ("64,64,30", "uint8"), ("50,60,50", "uint8")]
    kinds += [(shape, "int16") for shape, _ in kinds]
    for place, (shape, datatype) in enumerate(kinds):
        synth(folder / f"kind_{place}", 10, shape, datatype, seed=place)
    return folder
