"""Tests of properties of every filter: ranks and threads, volumes of a series, thin images, NaN, damage that
one thread finds while others filter, and memory."""

import itertools
import re
import struct

import nibabel
import numpy as np
import pytest

import images
from filters import FILTERS, Filter, each_filter
from program import run
from test_faults import failed, parts
from test_ranks import STRATEGIES, baseline, check_report, mixed, sums  # noqa: F401

pytestmark = pytest.mark.timeout(120)


def loaded(path):
    return np.asarray(nibabel.load(path).dataobj)


# A window that reaches further below than above, and around the edge.
UNEVEN = Filter("median-wrap", "median", ("--size=4,3,5", "--boundary=wrap"), ())


@pytest.mark.ranks
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("filter", [*FILTERS[1:], UNEVEN], ids=lambda filter: filter.name)
def test_bytes_of_each_filter_do_not_depend_on_ranks_or_threads(
    mixed, baseline, tmp_path, filter, ranks, threads  # noqa: F811
):
    """test_ranks.py has those of smoothing, with each strategy."""
    strategy = STRATEGIES[(ranks + threads) % len(STRATEGIES)]
    how = {"ranks": ranks, "threads": threads, "expect": filter.thin_code}
    finished = filter.run(mixed, tmp_path / "out", "--strategy", strategy, **how)
    assert baseline(filter) and sums(tmp_path / "out") == baseline(filter)
    if not filter.thin_code:
        check_report(finished.report, 12, ranks, threads)


NO_STAGE = Filter("no-stage", "smooth", ("--sigma=0",), ())


@pytest.mark.parametrize("filter", [NO_STAGE, *FILTERS], ids=lambda filter: filter.name)
def test_threads_share_series_of_small_volumes(tmp_path, filter):
    """Volumes so small that several fit into one slab, and filters with no stage or with thin slabs."""
    rng = np.random.default_rng(59)
    for name, shape in (("a.nii.gz", (32, 32, 40, 4)), ("b.nii", (17, 14, 22, 17))):
        images.write(tmp_path / "in" / name, images.random_array(rng, shape, "int16"))
    filter.run(tmp_path / "in", tmp_path / "base")
    # The others have thick slabs, which ranks do not change.
    all_ranks = [1, 2, 3] if filter.name in ("no-stage", "denoise") else [None]
    for ranks, threads in itertools.product(all_ranks, [1, 2, 3]):
        output = tmp_path / f"out_{ranks}_{threads}"
        filter.run(tmp_path / "in", output, ranks=ranks, threads=threads, timeout=30)
        assert sums(output) == sums(tmp_path / "base"), (ranks, threads)


@each_filter
def test_each_volume_of_a_series_is_filtered_separately(tmp_path, filter):
    rng = np.random.default_rng(61)
    arrays = {}
    thin = [] if filter.thin_code else [(1, 8, 7, 2), (6, 1, 5, 4)]
    for number, shape in enumerate([(9, 8, 7, 3), (5, 4, 3, 1, 2), *thin]):
        array = images.random_array(rng, shape, "int16")
        images.write(tmp_path / "series" / f"{number}.nii.gz", array)
        arrays[number] = array.reshape((*shape[:3], -1), order="F")
        for volume in range(arrays[number].shape[3]):
            alone = np.ascontiguousarray(arrays[number][..., volume])
            images.write(tmp_path / "volumes" / f"{number}_{volume}.nii.gz", alone)
    filter.run(tmp_path / "series", tmp_path / "out", threads=2)
    filter.run(tmp_path / "volumes", tmp_path / "expected", threads=2)
    for number, array in arrays.items():
        result = loaded(tmp_path / "out" / f"{number}.nii.gz").reshape(array.shape, order="F")
        for volume in range(array.shape[3]):
            expected = loaded(tmp_path / "expected" / f"{number}_{volume}.nii.gz")
            assert result.dtype == expected.dtype
            np.testing.assert_array_equal(result[..., volume], expected, err_msg=f"{number} {volume}")


@each_filter
def test_axes_of_one_voxel(tmp_path, filter):
    """Results keep the shape, stay between 0 and the largest voxel, and are the same for any threads."""
    rng = np.random.default_rng(62)
    shapes = [(1, 1, 1), (1, 7, 5), (9, 1, 1), (9, 8, 1), (1, 1, 6), (7,), (9, 8), (40, 1, 30, 1, 2)]
    for number, shape in enumerate(shapes):
        for datatype in ("int16", "float32"):
            array = rng.integers(1, 200, shape).astype(datatype)
            images.write(tmp_path / "in" / f"{datatype}_{number}.nii", array)
    if filter.thin_code:
        finished = filter.run(tmp_path / "in", tmp_path / "out", expect=1)
        causes = {record["error"] for record in finished.report["images"]}
        assert all("needs more than" in cause for cause in causes) and not sums(tmp_path / "out"), causes
        return
    for threads in (1, 2, 3):
        filter.run(tmp_path / "in", tmp_path / f"out_{threads}", threads=threads)
    assert sums(tmp_path / "out_1") == sums(tmp_path / "out_2") == sums(tmp_path / "out_3")
    for path in (tmp_path / "in").iterdir():
        array, result = loaded(path), loaded(tmp_path / "out_1" / path.name)
        assert result.shape == array.shape
        assert result.min() >= 0 and result.max() <= array.max() * 1.000001, path


@each_filter
def test_not_a_number(tmp_path, filter):
    """An image with NaN fails or has NaN in its result; with --nan zero, or a preset with this rule, they
    count as zeros."""
    rng = np.random.default_rng(63)
    array = images.random_array(rng, (12, 11, 10), "float32")
    holes = rng.random(array.shape) < 0.02
    images.write(tmp_path / "in" / "a.nii.gz", np.where(holes, np.float32("nan"), array))
    images.write(tmp_path / "zeros" / "a.nii.gz", np.where(holes, np.float32(0), array))
    zero = [] if filter.zeroes_nan else ["--nan=zero"]
    if zero:
        plain = run([*filter.words, str(tmp_path / "in"), "--output", str(tmp_path / "plain")])
        if plain.code:
            assert plain.code == 1 and "--nan" in plain.stderr and not sums(tmp_path / "plain"), plain
        else:
            assert np.isnan(loaded(tmp_path / "plain" / "a.nii.gz"))[holes].all()
    finished = filter.run(tmp_path / "in", tmp_path / "out", *zero, threads=2)
    assert finished.report["images"][0]["nonfinite_voxels"] == holes.sum()
    filter.run(tmp_path / "zeros", tmp_path / "expected")
    assert sums(tmp_path / "out") == sums(tmp_path / "expected")


@each_filter
@pytest.mark.parametrize("threads", [1, 3])
def test_damage_found_while_other_threads_filter(tmp_path, filter, threads):
    """Each file is the only image of its run, so all threads share it."""
    source = tmp_path / "in"
    array = images.random_array(np.random.default_rng(64), (40, 41, 42), "int16")
    content = images.write(source / "whole.nii.gz", array).read_bytes()
    uncompressed = images.write(source / "whole.nii", array).read_bytes()
    middle, end = bytearray(content), bytearray(content)
    middle[len(content) // 2] ^= 0xFF
    end[-8] ^= 0xFF
    damaged = {"cut.nii.gz": content[: len(content) // 2], "middle.nii.gz": middle, "end.nii.gz": end}
    damaged["cut.nii"] = uncompressed[:-1000]
    for name, damage in damaged.items():
        (source / name).write_bytes(damage)
        out = tmp_path / f"out-{name}"
        finished = filter.run(source / name, out, threads=threads, timeout=30, expect=1)
        assert failed(finished)[name]["stage"] == "read", finished
        assert not sums(out) and not parts(out), finished
    filter.run(source / "whole.nii.gz", tmp_path / "out", threads=threads)
    assert list(sums(tmp_path / "out")) == ["whole.nii.gz"]


@each_filter
def test_an_image_beyond_the_memory_is_refused_before_it_is_read(tmp_path, filter):
    source, out, report = tmp_path / "in", tmp_path / "out", tmp_path / "report.json"
    images.series(source, 3)
    one = np.zeros((1, 1, 1), "float32")
    content = bytearray(images.image_bytes(one, images.header_for(one)))
    struct.pack_into("<4h", content, 40, 3, 900, 900, 900)
    with open(source / "huge.nii", "wb") as file:
        file.write(content[:352])
        # The voxels take no space on the disk.
        file.truncate(352 + 4 * 900**3)
    words = [*filter.words, source, "--output", out, "--threads=2", "--report", report]
    limited = ["bash", "-c", 'ulimit -v 1400000; exec "$@"', "-"]
    finished = run([str(word) for word in words], prefix=limited, report_path=report)
    assert finished.code == 1 and list(failed(finished)) == ["huge.nii"], finished
    record = failed(finished)["huge.nii"]
    needed_mib = int(re.search(r"needs (\d+) MiB of memory", record["error"])[1])
    assert needed_mib >= 2781 and "ulimit -v" in record["error"] and record["stage"] == "read", record
    assert finished.report["totals"]["done"] == 3
