"""Compares the CPU time per image of niimpi and of other programs for the same task, pinned to one CPU.

usage: side_by_side.py OUTPUT_FOLDER [--quick]    writes side_by_side.csv and side_by_side.json there

Each program smooths 2 images and then 12 (or 102 small ones) with a sigma of 2 voxels. The difference in CPU
time over the difference in images is the cost per image, without the program's start (except for programs
that take one image per call). All programs take turns in every round, so that other load on the machine
affects all of them. Ratios are computed within a round. The lower bound is the time of gzip alone, with the
fastest codec: `igzip -d` of the same inputs, and `igzip -1` of the voxels that niimpi writes. Files are in
memory if there is room, so that the disk is not measured. The environment variable TMPDIR sets another
folder.
"""

import argparse
import csv
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import measure

PEERS = Path(__file__).parent / "peers"
NIIMPI = os.environ["NIIMPI_BIN"]
# Shape, type, voxel size in mm, and the number of images in addition to two. niimpi takes about a second for
# them.
CASES = {
    "int16": ("197,233,189", "int16", "1,1,1", 10),
    "float32": ("197,233,189", "float32", "1,1,1", 10),
    "uint8": ("91,109,91", "uint8", "2,2,2", 100),
}
FEW = 2
# The variant of two CPUs that does twice the work.
SEPARATE = "2 separate runs"


@dataclass
class Program:
    """A program in the comparison: its name and how to make it smooth images into a folder."""

    name: str
    commands: object
    rounds: int
    cases: tuple = tuple(CASES)
    needs: str | None = None
    # The figures of the finished rounds, by case.
    rounds_done: dict = field(default_factory=dict)


def in_python(script):
    """A script in the folder `peers`. Its arguments are the output folder and the images."""
    return lambda images, out, _raw: [[sys.executable, str(PEERS / script), str(out), *map(str, images)]]


def niimpi(*options):
    """niimpi on one rank with one thread, without syncing, because the other programs do not sync either."""

    def commands(images, out, _raw):
        return [
            [
                NIIMPI,
                "smooth",
                *map(str, images),
                "--output",
                str(out),
                "--sigma",
                "2",
                "--threads",
                "1",
                "--no-sync",
                "--overwrite",
                "--quiet",
                *options,
            ]
        ]

    return commands


def niimath(images, out, _raw):
    """niimath takes sigma in mm. Voxels are 1 or 2 mm here."""
    program = Path(sys.executable).with_name("niimath")
    sigma_mm = "4" if "uint8" in str(images[0]) else "2"
    return [
        [str(program), str(image), "-s", sigma_mm, str(out / image.name), "-odt", "input"] for image in images
    ]


def mrfilter(images, out, _raw):
    """mrfilter of MRtrix3, which always writes float32."""
    sigma_mm = "4" if "uint8" in str(images[0]) else "2"
    return [
        [
            "mrfilter",
            "-quiet",
            "-force",
            "-nthreads",
            "0",
            "-stdev",
            sigma_mm,
            str(image),
            "smooth",
            str(out / image.name),
        ]
        for image in images
    ]


def programs(rounds, slow_rounds):
    """All programs, the lower bound first."""
    return [
        Program(
            "igzip -d",
            lambda images, _out, _raw: [f"igzip -d -c {words(images)} >/dev/null"],
            rounds,
            needs="igzip",
        ),
        Program(
            "igzip -1",
            lambda images, out, raw: [f"igzip -1 -c {words(raw[: len(images)])} >{out}/all.gz"],
            rounds,
            needs="igzip",
        ),
        Program("niimpi", niimpi(), rounds),
        Program("Python with fslpy and SciPy", in_python("fslpy_scipy_smooth.py"), slow_rounds),
        Program("niimath", niimath, slow_rounds),
        Program("mrfilter", mrfilter, slow_rounds, cases=("int16",), needs="mrfilter"),
        Program("nilearn", in_python("nilearn_smooth.py"), slow_rounds, cases=("int16",)),
        Program("SimpleITK", in_python("simpleitk_smooth.py"), slow_rounds, cases=("int16",)),
        Program("antspyx", in_python("antspyx_smooth.py"), slow_rounds, cases=("int16",)),
    ]


def words(paths):
    """Paths as shell arguments. They contain no special characters."""
    return " ".join(map(str, paths))


def make_images(folder, case):
    """Creates the inputs of a case, compressed with gzip's default level 6, and niimpi's uncompressed
    results."""
    shape, datatype, voxel_mm, additional = CASES[case]
    many = FEW + additional
    images, raw = folder / case, folder / f"{case}-smoothed"
    run(
        [
            NIIMPI,
            "synth",
            images,
            "--count",
            many,
            "--shape",
            shape,
            "--datatype",
            datatype,
            "--voxel-size",
            voxel_mm,
        ]
    )
    for image in sorted(images.iterdir()):
        run(
            [
                "bash",
                "-c",
                f"igzip -d -c {image} >{image}.raw && gzip -6 -n <{image}.raw >{image} && rm {image}.raw",
            ]
        )
    paths = [images / f"sample_{k}.nii.gz" for k in range(1, many + 1)]
    run(
        [
            NIIMPI,
            "smooth",
            images,
            "--output",
            raw,
            "--name",
            "{stem}.nii",
            "--sigma",
            "2",
            "--no-sync",
            "--quiet",
        ]
    )
    return paths, [raw / f"sample_{k}.nii" for k in range(1, many + 1)]


def run(command):
    """Runs a command that must succeed."""
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)


def throughput(images, folder, rounds):
    """Seconds of all images on one CPU, and on two CPUs as ranks and as threads; of one image on two threads;
    and of two separate runs at the same time. The separate runs show the limit of the machine, because two
    CPUs may share a core, a cache or a clock."""
    if len(os.sched_getaffinity(0)) < 2:
        return []
    both = sorted(os.sched_getaffinity(0))[:2]
    launcher = [os.environ["NIIMPI_MPIRUN"]]
    if os.environ.get("NIIMPI_MPI") == "openmpi":
        launcher += ["--oversubscribe", "--bind-to", "none"] + (
            ["--allow-run-as-root"] if os.getuid() == 0 else []
        )

    def smooth(threads, sources, name="many"):
        return [
            NIIMPI,
            "smooth",
            *map(str, sources),
            "--output",
            str(folder / name),
            "--sigma",
            "2",
            "--threads",
            str(threads),
            "--no-sync",
            "--overwrite",
            "--quiet",
            "--report",
            str(folder / f"{name}.json"),
        ]

    def at_once(cpu, name):
        return f"taskset -c {cpu} {words(smooth(1, images, name))} & "

    # A single image of 70 million voxels, as in microscopy and long series.
    large = folder / "large"
    run([NIIMPI, "synth", large, "--count", 1, "--shape", "394,466,378", "--datatype", "int16"])
    ways = {
        "1 thread": (smooth(1, images), both[:1]),
        "2 threads": (smooth(2, images), both),
        "2 ranks": ([*launcher, "-n", "2", *smooth(1, images)], both),
        SEPARATE: (at_once(both[0], "many") + at_once(both[1], "others") + "wait", both),
        "1 large image, 1 thread": (smooth(1, [large]), both[:1]),
        "1 large image, 2 threads": (smooth(2, [large]), both),
    }
    env = {"OMPI_MCA_btl_vader_single_copy_mechanism": "none"}
    rows = []
    for turn in range(rounds):
        for name, (command, cpus) in ways.items():
            taken = measure.cost([command], cpus, env)
            reports = ["many", "others"] if name == SEPARATE else ["many"]
            # Without launching ranks.
            run_s = max(json.loads((folder / f"{one}.json").read_text())["elapsed_s"] for one in reports)
            rows.append({"round": turn, "way": name, "wall_s": taken.wall_s, "run_s": run_s})
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--quick", action="store_true", help="two rounds of the fast programs, one of the slow ones"
    )
    parser.add_argument(
        "--only-throughput", action="store_true", help="only compare two CPUs with one: throughput.csv"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rounds, slow_rounds = (2, 1) if args.quick else (11, 2)
    everyone = [
        program
        for program in programs(rounds, slow_rounds)
        if not program.needs or shutil.which(program.needs)
    ]
    cpu = max(os.sched_getaffinity(0))
    rows, sizes = [], {}
    about = measure.machine()
    with measure.scratch("niimpi-bench-") as scratch:
        scratch = Path(scratch)
        if args.only_throughput:
            images, _ = make_images(scratch, "int16")
            write_csv(args.out / "throughput.csv", throughput(images, scratch, max(2, rounds - 4)))
            return
        about["files"] = "in memory" if scratch.is_relative_to(measure.IN_MEMORY) else "on a disk"
        for case in CASES:
            images, raw = make_images(scratch, case)
            for turn in range(rounds):
                for program in everyone:
                    # More rounds for small images, which are quick with every program.
                    enough = max(program.rounds, rounds // 3) if case == "uint8" else program.rounds
                    if turn >= enough or case not in program.cases:
                        continue
                    out = scratch / "out"
                    costs = []
                    for count in (FEW, len(images)):
                        shutil.rmtree(out, ignore_errors=True)
                        out.mkdir()
                        measure.touch_memory()
                        costs.append(
                            measure.cost(
                                program.commands(images[:count], out, raw), {cpu}, measure.ONE_THREAD
                            )
                        )
                    few, many = costs
                    additional = len(images) - FEW
                    row = {
                        "case": case,
                        "program": program.name,
                        "round": turn,
                        "cpu_ms_per_image": (many.cpu_s - few.cpu_s) / additional * 1e3,
                        "system_ms_per_image": (many.system_s - few.system_s) / additional * 1e3,
                        "wall_ms_per_image": (many.wall_s - few.wall_s) / additional * 1e3,
                    }
                    rows.append(row)
                    print(
                        f"{case:8} {program.name:18} round {turn}: {row['cpu_ms_per_image']:8.1f} CPU ms per "
                        f"image",
                        flush=True,
                    )
            sizes[case] = {"images": len(images), "in": sum(map(size, images)), "raw": sum(map(size, raw))}
            report = scratch / "sizes.json"
            run(
                [
                    NIIMPI,
                    "smooth",
                    *images,
                    "--output",
                    scratch / "sizes",
                    "--sigma",
                    "2",
                    "--threads",
                    "1",
                    "--no-sync",
                    "--quiet",
                    "--report",
                    report,
                ]
            )
            sizes[case]["niimpi"] = sum(map(size, (scratch / "sizes").glob("*.nii.gz")))
            sizes[case]["peak memory"] = json.loads(report.read_text())["totals"]["max_rss_bytes"]
            sizes[case]["zlib level 1"] = sum(len(zlib.compress(image.read_bytes(), 1)) for image in raw)
            if case == "int16":
                spans = throughput(images, scratch, max(2, rounds - 4))
                write_csv(args.out / "throughput.csv", spans)
            shutil.rmtree(scratch / "sizes")
            write_csv(args.out / "side_by_side.csv", rows)
    about["load_after"] = os.getloadavg()[0]
    packages = ("numpy", "scipy", "nibabel", "fslpy", "nilearn", "simpleitk", "antspyx")
    about["versions"] = {
        "niimpi": measure.version([NIIMPI, "--version"]),
        "igzip": measure.version(["igzip", "--version"]),
        "niimath": measure.version([str(Path(sys.executable).with_name("niimath")), "--version"]),
        "mrfilter": measure.version(["mrfilter", "-version"]),
        "python": sys.version.split()[0],
        **{name: importlib.metadata.version(name) for name in packages},
    }
    (args.out / "side_by_side.json").write_text(
        json.dumps({"machine": about, "sizes_bytes": sizes}, indent=1) + "\n"
    )


def size(path):
    """Bytes of a file."""
    return path.stat().st_size


def write_csv(path, rows):
    """Rows with equal fields as CSV, numbers with three decimals."""
    with open(path, "w", newline="") as file:
        if rows:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow(
                    {key: f"{value:.3f}" if isinstance(value, float) else value for key, value in row.items()}
                )


if __name__ == "__main__":
    main()
