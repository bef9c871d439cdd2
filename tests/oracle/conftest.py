"""Options, fixtures and the last line of the test session.

Environment: NIIMPI_BIN (the program), NIIMPI_MPI (openmpi, mpich, or none for a build without MPI),
NIIMPI_MPIRUN (its launcher), NIIMPI_ORACLE_SUMMARY (a file for the counts, as JSON).
"""

import json
import os
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import program  # noqa: E402
import reference  # noqa: E402

started = time.monotonic()


def pytest_addoption(parser):
    parser.addoption(
        "--write-kernels", action="store_true", help="store the kernels used, for machines without AVX-512"
    )


def pytest_configure(config):
    config.addinivalue_line("markers", "ranks: needs a build with MPI and a launcher")
    config.addinivalue_line("markers", "arithmetic: compares voxels, which do not depend on the MPI library")
    if not (program.NIIMPI and os.access(program.NIIMPI, os.X_OK)):
        raise pytest.UsageError("set NIIMPI_BIN to the program, for example target/release/niimpi")
    program.NIIMPI = os.path.realpath(program.NIIMPI)


def pytest_collection_modifyitems(items):
    if not program.HAS_RANKS:
        for item in items:
            if item.get_closest_marker("ranks"):
                item.add_marker(pytest.mark.skip(reason="this build has no MPI"))


def pytest_sessionfinish(session):
    """With `-n`, each worker sends its counts to the process that prints them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tally"] = vars(reference.tally)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    if counts := getattr(node, "workeroutput", {}).get("tally"):
        reference.tally.merge(counts)


def pytest_terminal_summary(terminalreporter, config):
    tally = reference.tally
    if tally.images:
        kernels = "numpy's own (AVX-512)" if reference.HAS_AVX512 else "stored (numpy here has no AVX-512)"
        terminalreporter.section("oracle")
        for topic, counts in tally.topics.items():
            terminalreporter.write_line(
                f"{topic:28} {counts['images']:6} images {counts['voxels']:10} voxels {counts['differ']:6} "
                f"differ"
            )
        terminalreporter.write_line(f"{tally.line()}; kernels: {kernels}; MPI: {program.MPI}")
    for line in tally.lines:
        terminalreporter.write_line(line)
    summary = os.environ.get("NIIMPI_ORACLE_SUMMARY")
    if summary:
        counts = {
            "images": tally.images,
            "voxels": tally.voxels,
            "differ": tally.differ,
            "topics": tally.topics,
        }
        counts |= {"mpi": program.MPI, "avx512": reference.HAS_AVX512, "seconds": time.monotonic() - started}
        Path(summary).write_text(json.dumps(counts, indent=1) + "\n")
    if config.getoption("--write-kernels"):
        reference.write_kernels()
        terminalreporter.write_line(
            f"{len(reference.used_kernels)} kernels stored in {reference.KERNELS_FILE.name}"
        )
