"""Extrapolates the time of one image on 1 to 64 ranks (`--split`) from runs on one and two ranks.

usage: split_scaling.py OUTPUT_FOLDER    writes split_scaling.csv and split_scaling.svg there, prints a table

Needs two CPUs, one for each rank. Files are in memory if there is room; TMPDIR sets another folder.

The model: the ranks divide the work on sections (reading, filtering, compressing, and writing an uncompressed
result). Inflating a compressed image is not divided, because one rank inflates all of it. The first rank also
receives the sections of a compressed result and writes them. Of an uncompressed one, it writes only the bytes
at the ends of sections. A rank also computes the slices around its section, on one side with two ranks and on
both with more. So an image takes

    seconds(n) = inflate + work / n + margin · sides / 2 + receive · (n - 1) / n + write

where `sides` is 0 for one rank, 1 for two and 2 for more. `work` and `inflate` are measured on one rank,
`margin` and `write` on two. `receive` is what a run on two ranks takes longer than the other terms: messages,
waiting, and writes to one file that exclude each other. Launching MPI is not included. On several nodes,
messages go over the network; here they go through memory.
"""

import argparse
import json
import os
import statistics
import subprocess
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import nibabel
import numpy as np

import measure
from growth import ENV, LAUNCHER, NIIMPI
from side_by_side import write_csv

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

ROUNDS = 5
RANKS = (1, 2, 4, 8, 16, 32, 64)
VOLUME = (197, 233, 189)
# Name, file, shape and command.
CASES = (
    ("smooth, series of 40 volumes, .nii", "series.nii", (*VOLUME, 40), ("smooth", "--sigma=2")),
    ("smooth, volume, .nii.gz", "volume.nii.gz", VOLUME, ("smooth", "--sigma=2")),
    ("denoise, volume, .nii.gz", "volume.nii.gz", VOLUME, ("denoise",)),
)


@dataclass
class Model:
    """Seconds of the terms of the model."""

    inflate: float
    work: float
    margin: float
    receive: float
    write: float

    def seconds(self, ranks):
        others, sides = (ranks - 1) / ranks, min(ranks - 1, 2)
        divided = self.work / ranks + self.margin * sides / 2
        return self.inflate + divided + self.receive * others + self.write

    def limit(self):
        return self.inflate + self.margin + self.receive + self.write


def write_image(path, shape):
    """Smooth waves with noise, float32."""
    rng = np.random.default_rng(1)
    x, y, z = (np.sin(np.arange(length) / 17.0) * 300 for length in shape[:3])
    waves = x[:, None, None] + y[None, :, None] + z[None, None, :] + 1000
    count = shape[3] if len(shape) > 3 else 1
    volumes = np.empty((*shape[:3], count), np.float32, order="F")
    for number in range(count):
        volumes[..., number] = waves + rng.integers(-50, 50, shape[:3])
    nibabel.save(nibabel.Nifti1Image(volumes.reshape(shape, order="F"), np.diag([1, 1, 1, 1])), path)


def run(scratch, file, command, ranks):
    """Runs niimpi with one thread per rank. Returns the record of the image."""
    launcher = [*LAUNCHER, "-n", str(ranks)]
    words = [NIIMPI, *command, f"{scratch}/./{file}", "--output", scratch / "out", "--threads=1", "--no-sync"]
    words += ["--overwrite", "--quiet", "--report", scratch / "run.json"]
    words += ["--split=always" if ranks > 1 else "--split=never"]
    subprocess.run([*launcher, *words], check=True, env={**os.environ, **ENV})
    report = json.loads((scratch / "run.json").read_text())
    return report["images"][0] | {"elapsed_s": report["elapsed_s"]}


def median(rows, field):
    return statistics.median(row[field] for row in rows)


def measured(scratch, file, shape, command):
    """The model of an image from runs that take turns, and the seconds of one rank and of two."""
    write_image(scratch / file, shape)
    one, two = [], []
    for _ in range(ROUNDS):
        one.append(run(scratch, file, command, 1))
        two.append(run(scratch, file, command, 2))
        assert len(two[-1]["shared"]) == 2
    for image in two:
        # What the image spent on writing beyond the compression of the sections.
        image["written_s"] = image["write_s"] - sum(sharer["write_s"] for sharer in image["shared"])
    read, filtered = median(one, "read_s"), median(one, "filter_s")
    write = median(two, "written_s")
    compressed = median(one, "write_s") - write
    inflate = read if file.endswith(".gz") else 0.0
    work = read - inflate + filtered + max(compressed, 0.0)
    seconds = median(one, "elapsed_s"), median(two, "elapsed_s")
    # All ranks together compute the slices on both sides of the only cut.
    margin = max(median(two, "filter_s") - filtered, 0.0)
    receive = 2 * (seconds[1] - (inflate + work / 2 + margin / 2 + write))
    return Model(inflate, work, margin, max(receive, 0.0), write), seconds


def draw(models, path):
    """The speed-up of each image over one rank, and that of a perfect division."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    axes.plot(RANKS, RANKS, color="0.6", linestyle=":", label="perfect")
    styles = zip(("#0072B2", "#D55E00", "#009E73"), ("o", "s", "^"), ("-", "--", "-."))
    for (name, model), (color, marker, line) in zip(models.items(), styles):
        speed_ups = [model.seconds(1) / model.seconds(ranks) for ranks in RANKS]
        axes.plot(RANKS, speed_ups, color=color, marker=marker, linestyle=line, label=name)
    axes.set(xscale="log", yscale="log", xlabel="ranks", ylabel="speed-up over one rank", ylim=(0.4, 70))
    axes.set_xticks(RANKS, RANKS)
    axes.set_yticks((0.5, *RANKS), (0.5, *RANKS))
    axes.minorticks_off()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.set_layout_engine("constrained")
    plt.rcParams["svg.hashsalt"] = "niimpi"
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print("| image | measured, 1 rank | 2 ranks |", *(f"{ranks} |" for ranks in RANKS[2:]), "limit |")
    print("|---|" + "---:|" * (len(RANKS) + 1))
    models, rows = {}, []
    with measure.scratch("niimpi-split-") as folder:
        scratch = Path(folder)
        for name, file, shape, command in CASES:
            model, seconds = measured(scratch, file, shape, command)
            models[name] = model
            expected = [model.seconds(ranks) for ranks in RANKS[2:]]
            figures = (*seconds, *expected, model.limit())
            print(f"| {name} |", *(f"{value:.2f} |" for value in figures), flush=True)
            rows += [
                {"image": name, "ranks": ranks, "seconds": model.seconds(ranks), **vars(model)}
                for ranks in RANKS
            ]
    write_csv(args.out / "split_scaling.csv", rows)
    draw(models, args.out / "split_scaling.svg")


if __name__ == "__main__":
    main()
