"""Compares the time of `smooth --method fft` with that of the direct sums, on one CPU, in one run.

usage: fft.py OUTPUT_FOLDER [--quick]    writes fft.csv there and prints a table

The time of an image is the user CPU time of a run on one thread, less that of a run with sigma 0, which reads
and writes the same images. Both methods take turns in every round, and the minimum over all rounds counts.
The kernel is cut off at 4 sigmas, so a radius of 4 is a sigma of 1 voxel.
"""

import argparse
import csv
import os
import subprocess
import tempfile
from pathlib import Path

import measure
from filters import LARGE, NIIMPI, SMALL

RADII = [2, 4, 8, 16, 32, 64, 128, 256]
# Shapes, and the images of a run: so many that it takes long enough to be measured.
SHAPES = {"48,48,48": 80, SMALL: 10, LARGE: 1}


def images(shape, scratch):
    """A folder of float32 images of this shape."""
    source = scratch / shape
    words = ["synth", source, "--count", SHAPES[shape], "--shape", shape, "--datatype", "float32"]
    subprocess.run([NIIMPI, *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    return source


def user_s(sigma, method, source, scratch, cpu):
    """User CPU seconds of a run. Its result is not compressed, because that takes longer than smoothing."""
    words = [NIIMPI, "smooth", source, "--output", scratch / "out", "--name", "{stem}.nii", "--sigma", sigma]
    words += ["--method", method, "--threads", "1", "--no-sync", "--overwrite", "--quiet"]
    return measure.cost([list(map(str, words))], {cpu}).user_s


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--quick", action="store_true", help="one round of each")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    cpu = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpu})
    print(measure.machine()["processor"])
    print("| image | method |", " | ".join(f"radius {radius}" for radius in RADII), "|")
    print("|---|---|" + "---:|" * len(RADII))
    rows = []
    with tempfile.TemporaryDirectory(prefix="niimpi-fft-") as scratch:
        scratch = Path(scratch)
        for shape in SHAPES:
            source = images(shape, scratch)
            rounds = range(2 if args.quick else 5)
            unsmoothed = min(user_s(0, "direct", source, scratch, cpu) for _ in rounds)
            least = {(method, radius): float("inf") for method in ("direct", "fft") for radius in RADII}
            for _ in rounds:
                for method, radius in least:
                    seconds = user_s(radius / 4, method, source, scratch, cpu) - unsmoothed
                    seconds /= SHAPES[shape]
                    least[method, radius] = min(least[method, radius], seconds)
            for method in ("direct", "fft"):
                cells = " | ".join(f"{1000 * least[method, radius]:.1f}" for radius in RADII)
                print(f"| {shape.replace(',', '×')} | {method} | {cells} |", flush=True)
            for (method, radius), seconds in least.items():
                rows.append({"shape": shape, "radius": radius, "method": method, "user_s": seconds})
    with open(args.out / "fft.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
