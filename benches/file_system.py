"""What a file system and a virtual machine remember of earlier runs, in milliseconds a file: for readers
whose runs differ.

    benches/file_system.py FOLDER        writes and removes up to 0.4 GB of files below FOLDER, in 3 minutes

Making a file may take longer for a while after others were removed, and writing may when its memory lay free
for some seconds and the host has taken it back. Each line is a turn: the means over its files."""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

FILES = 400
BYTES = 900 << 10
# Turns one right after the other.
TURNS = 33
# Longer than ext4 keeps away from the places of removed files whose removal is on the disk.
LONG_S = 100
# Longer than free memory waits before it may be given back to the host.
SHORT_S = 5


def turn(folder):
    """Writes the files into a new folder: milliseconds to make one, and to write it."""
    content = os.urandom(BYTES)
    folder.mkdir()
    making, writing = [], []
    for number in range(FILES):
        begun = time.perf_counter()
        file = os.open(folder / str(number), os.O_CREAT | os.O_WRONLY)
        made = time.perf_counter()
        os.write(file, content)
        writing.append(time.perf_counter() - made)
        making.append(made - begun)
        os.close(file)
    return statistics.mean(making) * 1e3, statistics.mean(writing) * 1e3


def tell(name, folder):
    """One turn, and its line."""
    making_ms, writing_ms = turn(folder)
    print(f"{name:58} {making_ms:8.3f} {writing_ms:8.3f}", flush=True)
    shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    print(f"{FILES} files of {BYTES >> 10} KiB each {'':28} {'make ms':>8} {'write ms':>8}")
    with tempfile.TemporaryDirectory(prefix="niimpi-files-", dir=args.folder) as scratch:
        folder = Path(scratch) / "files"
        tell("the first", folder)
        for number in range(1, TURNS):
            if number in (1, 2, 4, 8, 16, 32):
                tell(f"at once, {number * FILES} files having been removed", folder)
            else:
                turn(folder)
                shutil.rmtree(folder)
        for _ in range(2):
            time.sleep(SHORT_S)
            tell(f"{SHORT_S} s later", folder)
        time.sleep(LONG_S)
        tell(f"{LONG_S} s later", folder)
        tell("at once", folder)


if __name__ == "__main__":
    main()
