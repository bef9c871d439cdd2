"""Compares the time of niimpi's filters with the programs whose numbers they give, on one CPU, in one run.

usage: filters.py OUTPUT_FOLDER [--quick]    writes filters.csv there and prints a table

niimpi's time is `filter_s` of its report; the other's is the CPU time of the call that filters, without
reading and writing. Both take turns in every round, and the least of all rounds counts. The voxels of both
results are compared.
"""

import argparse
import csv
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

# Before the libraries that read it are imported.
os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"

import nibabel
import numpy as np
from scipy import ndimage

import measure

NIIMPI = os.environ["NIIMPI_BIN"]
SMALL = "91,109,91"
LARGE = "197,233,189"


def gaussian(data, _image):
    return ndimage.gaussian_filter(data, 2)


def median(size):
    return lambda data, _image: ndimage.median_filter(data, size)


def anlm(model):
    def denoise(data, image):
        import ants

        return ants.denoise_image(ants.from_nibabel(image), noise_model=model).numpy()

    return denoise


# Name of the other program, what is computed, niimpi's command, shape, datatypes, the other's call, rounds.
CASES = [
    ("scipy", ["smooth", "--sigma", "2"], SMALL, ["uint8", "int16", "float32"], gaussian, 5),
    ("scipy", ["median", "--size", "3"], SMALL, ["uint8", "int16", "float32"], median(3), 5),
    ("scipy", ["median", "--size", "5"], SMALL, ["uint8", "int16", "float32"], median(5), 3),
    ("scipy", ["median", "--size", "3"], LARGE, ["int16"], median(3), 3),
]


def niimpi_s(command, source, out, cpu):
    """Seconds in which niimpi filters the image on one thread."""
    report = out.with_name("report.json")
    options = ["--output", out, "--threads", "1", "--no-sync", "--overwrite", "--quiet"]
    words = [NIIMPI, *command, source, *options]
    subprocess.run(
        [*map(str, words), "--report", str(report)],
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {cpu}),
    )
    (image,) = json.loads(report.read_text())["images"]
    return image["filter_s"]


def compare(case, datatype, scratch, cpu, quick):
    """The figures of a case: one row of the table."""
    other, command, shape, _, call, rounds = case
    source = scratch / f"{datatype}-{shape}"
    if not source.exists():
        words = ["synth", source, "--count", "1", "--shape", shape, "--datatype", datatype]
        subprocess.run([NIIMPI, *map(str, words)], check=True, stdout=subprocess.DEVNULL)
    (path,) = source.glob("*.nii.gz")
    image = nibabel.load(path)
    data = np.asarray(image.dataobj)
    out = scratch / "out"
    ours, others = [], []
    for _ in range(1 if quick else rounds):
        ours.append(niimpi_s(command, source, out, cpu))
        started = time.process_time()
        expected = call(data, image)
        others.append(time.process_time() - started)
    result = np.asarray(nibabel.load(out / path.name).dataobj)
    return {
        "filter": " ".join(command),
        "shape": shape.replace(",", "×"),
        "datatype": datatype,
        "other": other,
        "other_s": min(others),
        "niimpi_s": min(ours),
        "times_faster": min(others) / min(ours),
        "voxels": result.size,
        "voxels_that_differ": int(np.count_nonzero(result != expected)),
    }


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
    print("| filter | image | other | other, s | niimpi, s | niimpi is | voxels that differ |")
    print("|---|---|---|---:|---:|---:|---:|")
    rows = []
    with tempfile.TemporaryDirectory(prefix="niimpi-filters-") as scratch:
        for case in CASES:
            for datatype in case[3]:
                row = compare(case, datatype, Path(scratch), cpu, args.quick)
                rows.append(row)
                print(
                    f"| {row['filter']} | {row['datatype']} {row['shape']} | {row['other']} "
                    f"| {row['other_s']:.3f} | {row['niimpi_s']:.4f} | {row['times_faster']:.1f} × faster "
                    f"| {row['voxels_that_differ']} of {row['voxels']:,} |",
                    flush=True,
                )
    with open(args.out / "filters.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
