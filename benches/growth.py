"""Measures how niimpi's cost grows with images, sigma, voxels, ranks, the length of the list and a slow disk.

usage: growth.py OUTPUT_FOLDER    writes growth.csv there, one row per measurement: the quantity that grows,
                                  its size, the figure, its value

The measurements of ranks use tiny images and more ranks than CPUs, so that coordination dominates.
"""

import argparse
import csv
import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import measure
from side_by_side import write_csv

NIIMPI = os.environ["NIIMPI_BIN"]
LAUNCHER = [os.environ["NIIMPI_MPIRUN"]]
if os.environ.get("NIIMPI_MPI") == "openmpi":
    LAUNCHER += ["--oversubscribe", "--bind-to", "none"] + (
        ["--allow-run-as-root"] if os.getuid() == 0 else []
    )
ENV = {"OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
CPU = {max(os.sched_getaffinity(0))}
ONE = ["--threads", "1", "--no-sync", "--overwrite", "--quiet"]


def synth(folder, count, shape, datatype):
    """Creates images and returns their folder."""
    subprocess.run(
        [NIIMPI, "synth", folder, "--count", str(count), "--shape", shape, "--datatype", datatype],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return folder


def smooth(images, out, *options, launcher=(), cpus=None, sigma=2):
    """Runs niimpi. Returns its cost and its report."""
    measure.touch_memory()
    report = out.with_suffix(".json")
    command = [
        *launcher,
        NIIMPI,
        "smooth",
        str(images),
        "--output",
        str(out),
        "--sigma",
        str(sigma),
        *ONE,
        "--report",
        str(report),
        *options,
    ]
    taken = measure.cost([command], cpus, ENV)
    return taken, json.loads(report.read_text())


def rows(grows, size, **figures):
    """One row per figure."""
    return [{"grows": grows, "size": size, "figure": name, "value": value} for name, value in figures.items()]


def least(report, stage):
    """The smallest milliseconds of an image in a stage, least affected by other load."""
    return min(image[stage] for image in report["images"]) * 1e3


def images(scratch):
    """Cost and memory per additional image, for 1 to 400 images of the size of a 2 mm brain."""
    folder = synth(scratch / "images", 400, "91,109,91", "uint8")
    base, _ = smooth(folder, scratch / "out", "--limit", "1", cpus=CPU)
    for count in (1, 4, 16, 64, 200, 400):
        taken, report = smooth(folder, scratch / "out", "--limit", str(count), cpus=CPU)
        figures = {"peak_mib": report["totals"]["max_rss_bytes"] / 2**20}
        if count > 1:
            figures["cpu_ms_per_additional_image"] = (taken.cpu_s - base.cpu_s) / (count - 1) * 1e3
        yield from rows("images", count, **figures)


def sigmas(scratch):
    """Time of the filter for each sigma."""
    folder = synth(scratch / "sigma", 4, "197,233,189", "int16")
    widths = (0.5, 1, 2, 4, 8, 16)
    # Interleaved, so that other load on the machine affects all of them.
    runs = [
        {sigma: smooth(folder, scratch / "out", cpus=CPU, sigma=sigma)[1] for sigma in widths}
        for _ in range(6)
    ]
    for sigma in widths:
        yield from rows("sigma", sigma, filter_ms=min(least(run[sigma], "filter_s") for run in runs))


def voxels(scratch):
    """Nanoseconds per voxel in each stage and memory, for images from 10⁵ to 10⁸ voxels."""
    for edge in (46, 100, 215, 464):
        folder = synth(scratch / f"edge{edge}", 3 if edge > 400 else 6, f"{edge},{edge},{edge}", "int16")
        _, report = smooth(folder, scratch / "out", cpus=CPU)
        count = edge**3
        yield from rows(
            "voxels",
            count,
            **{
                f"{stage}_ns_per_voxel": least(report, f"{stage}_s") * 1e6 / count
                for stage in ("read", "filter", "write")
            },
            peak_mib=report["totals"]["max_rss_bytes"] / 2**20,
            voxel_mib=count * 2 / 2**20,
        )


def ranks(scratch):
    """Cost of distributing tiny images over 1 to 64 ranks on this machine's few CPUs."""
    few, many = 200, 2200
    folder = synth(scratch / "tiny", many, "8,8,8", "uint8")
    for count in (1, 2, 4, 8, 16, 32, 64):
        for strategy in ("cyclic", "dynamic"):
            spans, cpu = [], []
            for images in (few, many):
                taken, report = smooth(
                    folder,
                    scratch / "out",
                    "--strategy",
                    strategy,
                    "--limit",
                    str(images),
                    launcher=[*LAUNCHER, "-n", str(count)],
                )
                spans.append(report["elapsed_s"])
                cpu.append(taken.cpu_s)
            yield from rows(
                f"ranks, {strategy}",
                count,
                wall_us_per_image=(spans[1] - spans[0]) / (many - few) * 1e6,
                cpu_us_per_image=(cpu[1] - cpu[0]) / (many - few) * 1e6,
            )


def listing(scratch):
    """Seconds for listing, probing, partitioning and sending 40,000 images, on one and two ranks."""
    folder = synth(scratch / "many", 100, "8,8,8", "uint8")
    names = sorted(folder.iterdir())
    for copy in range(400):
        (folder / str(copy)).mkdir()
        for name in names:
            os.link(name, folder / str(copy) / name.name)
    for name in names:
        name.unlink()
    for count in (1, 2):
        log = subprocess.run(
            [
                *LAUNCHER,
                "-n",
                str(count),
                NIIMPI,
                "smooth",
                str(folder),
                "--output",
                str(scratch / "none"),
                "--sigma",
                "2",
                "--dry-run",
                "-v",
                "--threads",
                "1",
            ],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **ENV},
        ).stderr
        found = re.search(
            r"listed after ([\d.]+) s, probed after ([\d.]+) s, distributed after ([\d.]+) s", log
        )
        if found is None:
            raise RuntimeError(f"no times in: {log[-2000:]}")
        at = [0.0, *map(float, found.groups())]
        steps = ("list_and_broadcast", "probe_and_gather", "partition_and_broadcast")
        yield from rows(
            f"40000 images, {count} ranks",
            40000,
            **{f"{step}_s": after - before for step, before, after in zip(steps, at, at[1:])},
        )


def slow_disk(scratch):
    """Time on a disk with latency: of twelve images in one run, with read-ahead and write-behind, and in
    twelve runs, which cannot hide any latency."""
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True)
    if flags.returncode != 0 or not os.path.exists("/dev/fuse"):
        return
    program, disk, mount = scratch / "slow_disk", scratch / "disk", scratch / "mount"
    source = Path(__file__).with_name("slow_disk.c")
    subprocess.run(["cc", "-O2", "-o", program, source, *flags.stdout.split()], check=True)
    count = 12
    synth(disk / "large", count, "197,233,189", "int16")
    synth(disk / "small", 100, "91,109,91", "uint8")
    mount.mkdir()

    def run(wait_ms, images, size="large"):
        """The images in the report of one run with a cold page cache."""
        shutil.rmtree(disk / "out", ignore_errors=True)
        server = subprocess.Popen(
            [program, disk, str(wait_ms * 1000), mount, "-f"], stderr=subprocess.DEVNULL
        )
        try:
            while not os.path.ismount(mount):
                time.sleep(0.05)
            report = scratch / "report.json"
            words = [
                NIIMPI,
                "smooth",
                *(str(mount / size / f"sample_{k}.nii.gz") for k in images),
                "--output",
                str(mount / "out"),
                "--sigma",
                "2",
                "--threads",
                "1",
                "--quiet",
                "--report",
                str(report),
            ]
            measure.cost([words])
            return json.loads(report.read_text())["images"]
        finally:
            subprocess.run(["fusermount3", "-u", mount], check=True)
            server.wait()

    def span_s(images):
        """From the start of the first image to the end of the last."""
        ends = (image["start_s"] + image["read_s"] + image["filter_s"] + image["write_s"] for image in images)
        return max(ends) - min(image["start_s"] for image in images)

    for wait_ms in (0, 1, 5, 20):
        together = run(wait_ms, range(1, count + 1))
        reads = [image["read_s"] * 1e3 for image in sorted(together, key=lambda image: image["start_s"])]
        one_by_one_s = sum(span_s(run(wait_ms, [k])) for k in range(1, count + 1))
        yield from rows(
            "slow disk, ms per request",
            wait_ms,
            first_read_ms=reads[0],
            later_read_ms=statistics.median(reads[1:]),
            together_s=span_s(together),
            one_by_one_s=one_by_one_s,
        )
    for wait_ms in (0, 1, 5, 20):
        together = run(wait_ms, range(1, 101), "small")
        reads = [image["read_s"] * 1e3 for image in sorted(together, key=lambda image: image["start_s"])]
        yield from rows(
            "slow disk, 100 small images, ms per request",
            wait_ms,
            first_read_ms=reads[0],
            later_read_ms=statistics.median(reads[1:]),
            together_s=span_s(together),
        )


def syncing(_scratch):
    """Time with and without syncing, in the default folder for temporary files."""
    with tempfile.TemporaryDirectory(prefix="niimpi-growth-") as disk:
        disk = Path(disk)
        small = synth(disk / "small", 100, "91,109,91", "uint8")
        for _ in range(3):
            for name, options in (("not synced", ["--no-sync"]), ("synced", [])):
                command = [
                    NIIMPI,
                    "smooth",
                    str(small),
                    "--output",
                    str(disk / "out"),
                    "--sigma",
                    "2",
                    "--threads",
                    "1",
                    "--overwrite",
                    "--quiet",
                    "--report",
                    str(disk / "out.json"),
                    *options,
                ]
                measure.cost([command])
                report = json.loads((disk / "out.json").read_text())
                yield from rows(f"100 small images, {name}", 100, elapsed_s=report["elapsed_s"])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", help="one of: images, sigmas, voxels, ranks, listing, slow_disk, syncing")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    measured = []
    if args.only and (args.out / "growth.csv").exists():
        with open(args.out / "growth.csv", newline="") as file:
            measured = [{**row, "value": float(row["value"])} for row in csv.DictReader(file)]
    for study in (images, sigmas, voxels, ranks, listing, slow_disk, syncing):
        if args.only not in (None, study.__name__):
            continue
        with measure.scratch("niimpi-growth-") as scratch:
            found = []
            for row in study(Path(scratch)):
                found.append(row)
                print(
                    f"{row['grows']:24} {row['size']:>10} {row['figure']:28} {row['value']:10.3f}", flush=True
                )
        repeated = {row["grows"] for row in found}
        measured = [row for row in measured if row["grows"] not in repeated] + found
        # After each study, so that a failing one loses only its own results.
        write_csv(args.out / "growth.csv", measured)


if __name__ == "__main__":
    main()
