"""A large image on several ranks, at most so much memory for each: 1,290³ voxels of int16 (4.3 GB) on 8
ranks.

    .venv/bin/python benches/split_memory.py FOLDER [--length 1290] [--ranks 8] [--most-mb 700]

Writes the image slab by slab, filters it, prints the memory (VmHWM) of each rank, and compares blocks of the
result with scipy on the same blocks with their margins. Needs 9 GB on the disk of FOLDER."""

import argparse
import json
import os
import subprocess
from pathlib import Path

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter

SIGMA, MARGIN = 2.0, 8


def write(path, length):
    """Smooth waves with noise, slab by slab."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype("int16")
    header.set_data_shape((length,) * 3)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    rng = np.random.default_rng(1)
    x = 800 * np.sin(np.arange(length) / 17.0)
    with open(path, "wb") as file:
        file.write(header.binaryblock + bytes(4))
        for z in range(length):
            noise = rng.integers(-100, 100, (length, length), dtype=np.int16)
            slab = (x[:, None] + x[None, :] + x[z]).astype(np.int16) + noise
            file.write(slab.tobytes(order="F"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--length", type=int, default=1290)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--most-mb", type=float, default=700)
    args = parser.parse_args()
    image, output = args.folder / "in" / "large.nii", args.folder / "out"
    image.parent.mkdir(parents=True, exist_ok=True)
    if not image.exists():
        write(image, args.length)
    command = [os.environ.get("NIIMPI_BIN", "niimpi"), "smooth", image.parent, "--output", output]
    command += [f"--sigma={SIGMA}", "--threads=1", "--no-sync", "--report", args.folder / "run.json"]
    launcher = [os.environ.get("NIIMPI_MPIRUN", "mpirun"), "-n", str(args.ranks), "--oversubscribe"]
    launcher += ["--bind-to", "none", "--allow-run-as-root"]
    subprocess.run([*launcher, *command], check=True)
    report = json.loads((args.folder / "run.json").read_text())
    assert len(report["images"][0]["shared"]) == args.ranks
    highest = [rank["max_rss_bytes"] / 1e6 for rank in report["ranks"]]
    print(f"{report['elapsed_s']:.1f} s; VmHWM of each rank in MB: {[round(mb) for mb in highest]}")
    given, result = (nibabel.load(path).dataobj for path in (image, output / "large.nii"))
    rng = np.random.default_rng(2)
    # Between sections and at random places.
    corners = [[0, 0, args.length * n // args.ranks - 20] for n in range(1, args.ranks)]
    corners += rng.integers(0, args.length - 40, (20, 3)).tolist()
    for corner in corners:
        inner = tuple(slice(first, first + 40) for first in corner)
        outer = tuple(slice(max(0, s.start - MARGIN), s.stop + MARGIN) for s in inner)
        block = np.asarray(given[outer])
        cut = tuple(slice(s.start - o.start, s.start - o.start + 40) for s, o in zip(inner, outer))
        assert np.array_equal(gaussian_filter(block, SIGMA)[cut], np.asarray(result[inner])), corner
    print(f"{len(corners)} blocks of 40³ voxels equal scipy's")
    assert max(highest) <= args.most_mb, f"more than {args.most_mb} MB"


if __name__ == "__main__":
    main()
