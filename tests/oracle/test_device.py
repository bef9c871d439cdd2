"""--device opencl: results are compared with those of the CPU, byte for byte. Also tests errors and reports.

pocl computes on the CPU and is enough: `.ci/install opencl`. Without an OpenCL device these tests are
skipped; in CI (CI or CLUSTER=required is set) they fail. NIIMPI_TEST_DEVICE names another device.
"""

import json
import os
import re
import signal
import time

import nibabel
import numpy as np
import pytest

import images
from program import ranks_alive, run, smooth, start
from reference import BOUNDARIES, array_of

pytestmark = pytest.mark.timeout(120)

DEVICE = os.environ.get("NIIMPI_TEST_DEVICE", "opencl")
IN_CI = bool(os.environ.get("CI")) or os.environ.get("CLUSTER") == "required"
SHAPES = [(13, 10, 11), (70, 5, 3), (1, 7, 5), (1, 1, 1), (12, 9), (17,), (5, 6, 4, 3)]
# Where no driver is registered and no library is found.
NO_DRIVERS = {"OCL_ICD_VENDORS": "/nonexistent/"}


@pytest.fixture(scope="module")
def devices():
    """The devices that `niimpi devices` lists."""
    listed = run(["devices", "--json"])
    found = json.loads(listed.stdout) if listed.code == 0 else []
    if not found:
        reason = f"no OpenCL device: .ci/install opencl\n{listed}"
        pytest.fail(reason) if IN_CI else pytest.skip(reason)
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory, devices):
    """Every datatype and shape, and images with an intensity scale, NaN and infinity. Their masks are below
    `masks`."""
    folder = tmp_path_factory.mktemp("device")
    rng = np.random.default_rng(41)
    for datatype in images.DATATYPES:
        for number, shape in enumerate(SHAPES):
            array = images.random_array(rng, shape, datatype)
            images.write(folder / "in" / f"{datatype}_{number}.nii.gz", array)
    for datatype in ("int16", "float32"):
        array = images.random_array(rng, SHAPES[0], datatype)
        images.write(folder / "in" / f"scaled_{datatype}.nii.gz", array, slope=-0.37, inter=5)
    tiny = (rng.standard_normal(SHAPES[0]) * 1e-38).astype("float32")
    images.write(folder / "in" / "tiny.nii.gz", tiny)
    for datatype in images.FLOATS:
        array = images.random_array(rng, SHAPES[0], datatype)
        array[rng.random(array.shape) < 0.05] = np.nan
        array[2, 3, 4] = np.inf
        images.write(folder / "nan" / f"{datatype}.nii.gz", array)
    for path in [*(folder / "in").iterdir(), *(folder / "nan").iterdir()]:
        shape = nibabel.load(path).shape[:3]
        images.write(folder / "masks" / path.name, (rng.random(shape) < 0.6).astype("uint8"))
    return folder


def check(source, out, *options, threads=1, ranks=None, command="smooth"):
    """Filters on the CPU and on the device, and compares the files."""
    out.mkdir(exist_ok=True)
    cpu = smooth(source, out / "cpu", *options, command=command).report
    words = [*options, f"--device={DEVICE}"]
    sharing = {"threads": threads, "ranks": ranks}
    report = smooth(source, out / "device", *words, command=command, **sharing).report
    assert cpu["options"] == report["options"]
    assert all(rank["device"] for rank in report["ranks"]), report["ranks"]
    assert report["totals"]["done"] == report["totals"]["images"] > 0
    for path in sorted((out / "cpu").glob("*.nii.gz")):
        other = out / "device" / path.name
        if path.read_bytes() != other.read_bytes():
            (wanted, _), (got, _) = array_of(path), array_of(other)
            assert wanted.dtype == got.dtype
            # The sign of a NaN that comes from infinities depends on the processor.
            same = (wanted == got) | ((wanted != wanted) & (got != got))
            assert same.all(), f"{path.name}: {np.count_nonzero(~same)} of {same.size} voxels"
            assert np.isnan(wanted).any(), path.name


@pytest.mark.arithmetic
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_the_bits_are_those_of_the_cpu(source, tmp_path, boundary):
    words = [f"--boundary={boundary}", f"--cval={7.5 if boundary == 'constant' else 0}"]
    check(source / "in", tmp_path / "usual", "--sigma=1.3", *words)
    # Wider than most of the images.
    check(source / "in", tmp_path / "wide", "--sigma=9,0.4,5", *words, threads=3)


@pytest.mark.arithmetic
@pytest.mark.parametrize(
    "options",
    [
        "--sigma=0,0,2 --boundary=wrap",
        "--sigma=2,0,0 --output-type=float64",
        "--sigma=0,1,0 --round=nearest",
        "--sigma=1 --round=nearest",
        "--sigma=1,0,1 --output-type=int16",
        "--sigma=1 --output-type=float32 --truncate=0.1",
        "--sigma=0",
        "--fwhm=3 --boundary=constant --cval=nan --output-type=float32",
    ],
)
def test_types_and_axes(source, tmp_path, options):
    check(source / "in", tmp_path, *options.split())


@pytest.mark.arithmetic
@pytest.mark.parametrize("nan", ["propagate", "zero", "ignore", "keep"])
def test_voxels_that_are_not_finite(source, tmp_path, nan):
    check(source / "nan", tmp_path / "xyz", "--sigma=1.1", f"--nan={nan}", "--boundary=constant", "--cval=3")
    check(source / "nan", tmp_path / "z", "--sigma=0,0,1", f"--nan={nan}", threads=3)


@pytest.mark.arithmetic
@pytest.mark.parametrize("outside", ["zero", "keep"])
def test_masks(source, tmp_path, outside):
    mask = [f"--mask={source}/masks/{{stem}}.nii.gz", f"--outside={outside}"]
    check(source / "in", tmp_path / "in", "--sigma=1.1,0.9,1.4", *mask)
    check(source / "nan", tmp_path / "nan", "--sigma=1.1", "--nan=ignore", *mask, threads=2)


@pytest.mark.arithmetic
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_medians(source, tmp_path, boundary):
    words = [f"--boundary={boundary}", f"--cval={-7.5 if boundary == 'constant' else 0}"]
    check(source / "in", tmp_path / "usual", *words, command="median")
    # Even lengths, and longer than most of the images.
    check(source / "in", tmp_path / "long", "--size=2,9,4", *words, command="median", threads=3)


@pytest.mark.arithmetic
@pytest.mark.parametrize(
    "options",
    [
        "--size=1",
        "--size=1 --output-type=float64",
        "--size=5 --footprint=cross --output-type=int16",
        "--footprint=sphere:2.3 --round=nearest --output-type=float32",
        "--size=7,1,1 --round=nearest",
        # More voxels than a sorting network has.
        "--size=13 --boundary=constant --cval=1e300",
        "--size=3 --boundary=constant --cval=inf --output-type=float64",
    ],
)
def test_windows_of_medians(source, tmp_path, options):
    check(source / "in", tmp_path, *options.split(), command="median", threads=2)


@pytest.mark.arithmetic
@pytest.mark.parametrize("nan", ["zero", "ignore", "keep"])
def test_medians_of_what_is_finite(source, tmp_path, nan):
    words = [f"--nan={nan}", "--boundary=constant", "--cval=3"]
    check(source / "nan", tmp_path / "usual", *words, command="median")
    check(source / "nan", tmp_path / "even", "--size=1,2,1", *words, command="median", threads=3)


@pytest.mark.arithmetic
@pytest.mark.parametrize("outside", ["zero", "keep"])
def test_medians_inside_masks(source, tmp_path, outside):
    mask = [f"--mask={source}/masks/{{stem}}.nii.gz", f"--outside={outside}"]
    check(source / "in", tmp_path / "in", "--size=3,4,2", *mask, command="median")
    words = ["--nan=ignore", "--footprint=cross", *mask]
    check(source / "nan", tmp_path / "nan", *words, command="median", threads=2)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory, devices):
    """Images of every kind that are large enough for a block, and masks."""
    folder = tmp_path_factory.mktemp("noisy")
    rng = np.random.default_rng(43)
    for number, datatype in enumerate(images.DATATYPES):
        shape = [(9, 8, 7), (12, 7, 6), (7, 11, 6, 2)][number % 3]
        array = np.clip(rng.normal(90, 12, shape), 0, 127).astype(datatype)
        images.write(folder / "in" / f"{datatype}.nii.gz", array)
        images.write(folder / "masks" / f"{datatype}.nii.gz", (rng.random(shape[:3]) < 0.6).astype("uint8"))
    array = np.clip(rng.normal(90, 12, (9, 8, 7)), 0, 127).astype("int16")
    images.write(folder / "in" / "scaled.nii.gz", array, slope=-0.37, inter=5)
    images.write(folder / "masks" / "scaled.nii.gz", (rng.random(array.shape) < 0.6).astype("uint8"))
    # Where a voxel is 0, very small weights decide.
    array = rng.normal(90, 12, (9, 8, 7)) * (rng.random((9, 8, 7)) < 0.7)
    images.write(folder / "in" / "sparse.nii.gz", array)
    images.write(folder / "masks" / "sparse.nii.gz", (rng.random(array.shape) < 0.6).astype("uint8"))
    return folder


@pytest.mark.arithmetic
@pytest.mark.parametrize(
    "options",
    [
        "",
        "--noise-model=gaussian --patch-radius=2 --block-radius=4",
        # Weights that are subnormal, and weights that are 0.
        "--noise-model=gaussian --sigma-noise=0.6 --block-radius=3 --output-type=float64",
        "--noise-model=gaussian --sigma-noise=2.2 --block-radius=3 --output-type=float64",
        "--sigma-noise=0.01 --block-radius=2",
        "--sigma-noise=estimate --block-radius=3 --output-type=float64",
        "--mask={masks}/{{stem}}.nii.gz --outside=keep --block-radius=3",
    ],
)
def test_nonlocal_means(noisy, tmp_path, options):
    words = ["--method=nlm", *options.format(masks=noisy / "masks").split()]
    check(noisy / "in", tmp_path, *words, command="denoise", threads=2)


@pytest.mark.ranks
def test_nonlocal_means_on_ranks_and_threads(noisy, tmp_path):
    words = ["--method=nlm", "--block-radius=3"]
    check(noisy / "in", tmp_path / "ranks", *words, command="denoise", ranks=2)
    image = noisy / "in" / "float32.nii.gz"
    check(image, tmp_path / "shared", *words, command="denoise", threads=3)


@pytest.mark.parametrize("name", ["int16_6", "float32_0", "uint64_0", "scaled_int16"])
def test_threads_that_share_an_image(source, tmp_path, name):
    image = source / "in" / f"{name}.nii.gz"
    for threads in (2, 5):
        check(image, tmp_path / f"{threads}", "--sigma=1.5", "--boundary=mirror", threads=threads)


@pytest.mark.ranks
@pytest.mark.parametrize("strategy", ["size", "dynamic"])
def test_ranks_share_the_devices_of_a_host(source, devices, tmp_path, strategy):
    check(source / "in", tmp_path, "--sigma=1.5", f"--strategy={strategy}", threads=2, ranks=2)
    shown = run(["report", "show", str(tmp_path / "device.report.json")])
    names = [device["name"] for device in devices]
    assert "used the device" in shown.stdout and any(name in shown.stdout for name in names), shown
    journals = sorted((tmp_path / "device" / ".niimpi").glob("journal-*.jsonl"))
    first = [json.loads(path.read_text().splitlines()[0]) for path in journals]
    assert len(first) == 2 and all(line["device"] in names for line in first)


def test_an_image_is_read_while_another_one_is_on_the_device(devices, tmp_path):
    """Transfers and kernels of one thread overlap with what other threads of the rank read and write."""
    rng = np.random.default_rng(47)
    for number in range(8):
        images.write(tmp_path / "in" / f"{number}.nii.gz", rng.normal(90, 12, (32, 32, 16)).astype("float32"))
    words = ["--method=nlm", "--block-radius=3", f"--device={DEVICE}"]
    smooth(tmp_path / "in", tmp_path / "out", *words, command="denoise", threads=2)
    shown = run(["report", "show", str(tmp_path / "out.report.json"), "--format", "chrome-trace"])
    spans = [event for event in json.loads(shown.stdout)["traceEvents"] if event["ph"] == "X"]
    filters = [span for span in spans if span["name"] == "filter"]
    reads = sorted((span for span in spans if span["name"] == "read"), key=lambda span: span["ts"])

    def is_meanwhile(read, on_device):
        other = on_device["tid"] != read["tid"]
        return other and on_device["ts"] <= read["ts"] <= on_device["ts"] + on_device["dur"]

    # Both threads begin with a read.
    hidden = sum(any(is_meanwhile(read, span) for span in filters) for read in reads[2:])
    assert 2 * hidden > len(reads[2:]) >= 4, shown.stdout


def test_a_result_does_not_depend_on_the_device(source, tmp_path):
    """A run on the device resumes one on the CPU."""
    words = [source / "in", tmp_path / "out", "--sigma=1"]
    done = smooth(*words, "--limit=5").report["totals"]["done"]
    report = smooth(*words, "--resume", f"--device={DEVICE}").report
    assert report["resume"]["kept"] == done == 5


def test_the_devices_are_listed(devices):
    listed = run(["devices"])
    assert listed.code == 0 and "opencl:0" in listed.stdout and "doubles" in listed.stdout, listed
    assert all(device["memory_bytes"] > 0 and device["driver_version"] for device in devices)
    details = run(["--version", "-v"])
    assert devices[0]["name"] in details.stdout, details


def chosen(finished):
    """What `--device auto` logged, one line for each kind of rank: how many, on what, and why."""
    return re.findall(r"--device auto: (\d+) of \d+ ranks on (a device|the CPU): (.*)", finished.stderr)


@pytest.mark.parametrize("ranks", [None, pytest.param(2, marks=pytest.mark.ranks)])
@pytest.mark.parametrize("command", ["smooth --sigma=2", "median --size=5", "denoise --method=nlm"])
def test_auto_takes_what_is_faster(source, noisy, tmp_path, command, ranks):
    command, *options = command.split()
    images = noisy / "in" if command == "denoise" else source / "in"
    smooth(images, tmp_path / "cpu", *options, command=command)
    words = [*options, "--device=auto"]
    auto = smooth(images, tmp_path / "auto", *words, command=command, ranks=ranks)
    [(number, on, why)] = chosen(auto)
    said = r"a sample takes ([\d.]+ ms|longer) on (.*?)(, which 2 ranks share,)? and ([\d.]+) ms on the "
    device_ms, name, shared, cpu_ms = re.match(said, why).groups()
    assert (int(number), bool(shared)) == (ranks or 1, ranks == 2)
    device_ms = np.inf if device_ms == "longer" else float(device_ms.split()[0])
    # Both are rounded.
    assert (on == "a device") == (device_ms < float(cpu_ms)) or device_ms == float(cpu_ms)
    assert {rank["device"] for rank in auto.report["ranks"]} == {name if on == "a device" else ""}
    none = smooth(images, tmp_path / "none", *words, command=command, ranks=ranks, env=NO_DRIVERS)
    [(_, on, why)] = chosen(none)
    assert on == "the CPU" and "no driver has a device" in why
    for path in (tmp_path / "cpu").glob("*.nii.gz"):
        for other in ("auto", "none"):
            assert path.read_bytes() == (tmp_path / other / path.name).read_bytes(), f"{other} {path.name}"


def test_auto_takes_the_cpu_for_other_filters(source, tmp_path):
    words = ["--sigma=1", "--method=fft", "--device=auto"]
    auto = smooth(source / "in" / "int16_0.nii.gz", tmp_path / "out", *words)
    assert chosen(auto) == [("1", "the CPU", "this filter with these options is not computed on devices")]
    dry = smooth(source / "in", tmp_path / "dry", "--sigma=1", "--device=auto", "--dry-run", env=NO_DRIVERS)
    assert "dry run" in dry.stdout and not chosen(dry)


def refused(source, tmp_path, *options, env=None, ranks=None):
    """The message of a run that is refused before it writes anything."""
    failed = smooth(source, tmp_path / "out", *options, expect=2, env=env, ranks=ranks)
    assert not (tmp_path / "out").exists(), failed
    return failed.stderr


def test_devices_that_are_not_there(source, devices, tmp_path):
    words = [source / "in", tmp_path, "--sigma=1"]
    message = refused(*words, "--device=opencl:99")
    assert f"there is no device 99: `niimpi devices` lists {len(devices)} from 0" in message
    message = refused(*words, "--device=opencl", env=NO_DRIVERS)
    assert "--device opencl: rank 0 on" in message and "no driver has a device" in message
    listed = run(["devices"], env=NO_DRIVERS)
    assert listed.code == 0 and "no driver has a device" in listed.stdout, listed
    for wrong in ("gpu", "opencl:", "opencl:x", "cpu:0", "auto:0"):
        assert "give cpu, auto, opencl, or opencl:N" in refused(*words, f"--device={wrong}")


@pytest.mark.ranks
def test_ranks_end_together_without_a_device(source, tmp_path):
    message = refused(source / "in", tmp_path, "--sigma=1", "--device=opencl", env=NO_DRIVERS, ranks=2)
    assert message.count("no driver has a device") == 1


@pytest.mark.parametrize(
    "options, said",
    [
        (["--sigma=1", "--method=fft"], "--method fft is computed on the CPU only: give --device cpu"),
        (["--fwhm=6", "--like=fsl"], "--like fsl is computed on the CPU only"),
    ],
)
def test_what_is_not_computed_on_devices(source, tmp_path, options, said):
    assert said in refused(source / "in", tmp_path, *options, "--device=opencl")


@pytest.mark.parametrize(
    "command, what",
    [
        ("denoise", "this filter"),
        ("denoise --method=nlm-blockwise", "--method nlm-blockwise"),
    ],
)
def test_other_filters(source, tmp_path, command, what):
    command, *options = command.split()
    failed = smooth(source / "in", tmp_path / "out", "--device=opencl", *options, command=command, expect=2)
    assert f"--device: {what}" in failed.stderr and "is computed on the CPU only" in failed.stderr, failed


def test_a_dry_run_looks_for_no_device(source, tmp_path):
    dry = smooth(
        source / "in", tmp_path / "out", "--sigma=1", "--device=opencl", "--dry-run", env=NO_DRIVERS
    )
    assert "dry run" in dry.stdout


@pytest.mark.parametrize("ranks", [None, pytest.param(2, marks=pytest.mark.ranks)])
def test_signals_stop_a_run_on_a_device(source, tmp_path, ranks):
    """Drivers take over signals, LLVM's SIGUSR1 among them."""
    report = tmp_path / "report.json"
    words = ["smooth", source / "in", "--output", tmp_path / "out", "--sigma=1", "--threads=1"]
    words += ["--report", report, f"--device={DEVICE}", "--no-sync"]
    with start(words, ranks=ranks, env={"NIIMPI_TEST_FAULT": "slow@0:300"}) as running:
        until = time.monotonic() + 60
        while len(list((tmp_path / "out").glob("*.nii.gz"))) < 2:
            assert time.monotonic() < until
            time.sleep(0.05)
        for process in ranks_alive(running.mark).values():
            os.kill(process, signal.SIGUSR1)
        finished = running.wait(60, report)
    assert finished.code == 75, finished
    assert finished.report["totals"]["failed"] == 0
    assert 2 <= finished.report["totals"]["done"] < finished.report["totals"]["images"]


@pytest.mark.ranks
@pytest.mark.parametrize("boundary", ["reflect", "constant"])
def test_ranks_that_share_an_image(source, noisy, tmp_path, boundary):
    for name in ("int16_0", "float32_6", "scaled_int16"):
        words = ["--sigma=1.3", f"--boundary={boundary}", "--split=always"]
        check(source / "in" / f"{name}.nii.gz", tmp_path / name, *words, threads=2, ranks=2)
        words = ["--size=3,2,4", f"--boundary={boundary}", "--split=always"]
        sharing = {"threads": 2, "ranks": 2, "command": "median"}
        check(source / "in" / f"{name}.nii.gz", tmp_path / f"median_{name}", *words, **sharing)
    words = ["--method=nlm", "--block-radius=2", "--split=always"]
    check(noisy / "in" / "int16.nii.gz", tmp_path / "nlm", *words, command="denoise", ranks=2)
