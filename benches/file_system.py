"""Measures how earlier runs affect a file system and a virtual machine, in milliseconds per file.

    benches/file_system.py FOLDER        writes and removes up to 0.4 GB of files below FOLDER, in 3 minutes

Creating a file can take longer for a while after other files were removed. Writing can take longer if memory
was free for some seconds and the host has reclaimed it. Each line shows means over the files of a turn."""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

FILES = 400
BYTES = 900 << 10
# Number of consecutive turns.
TURNS = 33
# Longer than the time for which ext4 avoids the blocks of removed files.
LONG_S = 100
# Longer than the time for which free memory stays with the virtual machine.
SHORT_S = 5


def turn(folder):
    """Writes the files into a new folder. Returns milliseconds to create a file and to write it."""
    content = os.urandom(BYTES)
    folder.mkdir()
    creating, writing = [], []
    for number in range(FILES):
        started = time.perf_counter()
        file = os.open(folder / str(number), os.O_CREAT | os.O_WRONLY)
        created = time.perf_counter()
        os.write(file, content)
        writing.append(time.perf_counter() - created)
        creating.append(created - started)
        os.close(file)
    return statistics.mean(creating) * 1e3, statistics.mean(writing) * 1e3


def measure_turn(name, folder):
    """Runs one turn and prints its line."""
    creating_ms, writing_ms = turn(folder)
    print(f"{name:58} {creating_ms:9.3f} {writing_ms:8.3f}", flush=True)
    shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    print(f"{f'{FILES} files of {BYTES >> 10} KiB each':58} {'create ms':>9} {'write ms':>8}")
    with tempfile.TemporaryDirectory(prefix="niimpi-files-", dir=args.folder) as scratch:
        folder = Path(scratch) / "files"
        measure_turn("first", folder)
        for number in range(1, TURNS):
            if number in (1, 2, 4, 8, 16, 32):
                measure_turn(f"immediately, after {number * FILES} files were removed", folder)
            else:
                turn(folder)
                shutil.rmtree(folder)
        for _ in range(2):
            time.sleep(SHORT_S)
            measure_turn(f"{SHORT_S} s later", folder)
        time.sleep(LONG_S)
        measure_turn(f"{LONG_S} s later", folder)
        measure_turn("immediately", folder)


if __name__ == "__main__":
    main()
