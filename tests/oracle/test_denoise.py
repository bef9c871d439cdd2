"""niimpi denoise: results bit for bit as ANTs on one thread, and the same bytes for any ranks and threads.

NIIMPI_DENOISE=all compares more cases.
"""

import os
import resource

import nibabel
import numpy as np
import pytest

import ants_reference
import images
from program import HAS_RANKS, smooth
from reference import differing, tally
from test_mask import mask_of
from test_ranks import sums

pytestmark = [pytest.mark.timeout(600), pytest.mark.arithmetic]
needs_ants = pytest.mark.skipif(ants_reference.MISSING is not None, reason=str(ants_reference.MISSING))
ALL = os.environ.get("NIIMPI_DENOISE") == "all"

SHAPES = [(12, 11, 10), (20, 17, 9), (5, 7, 6), (3, 4, 5), (16, 16, 1), (21, 18)]
RADII = [(1, 2), (1, 3), (2, 2), (2, 3)]
MODELS = ("rician", "gaussian")


@pytest.fixture(scope="module")
def ants(tmp_path_factory):
    with ants_reference.Ants(tmp_path_factory.mktemp("ants")) as process:
        yield process


def phantom(rng, shape, noise=12.0):
    """A smooth signal with edges, in Rician noise, on a background without signal."""
    grid = np.meshgrid(*[np.linspace(-1, 1, length) for length in shape], indexing="ij")
    along = grid[-1] if len(shape) == 2 else grid[2]
    signal = 140 + 60 * np.sin(5 * grid[0]) * np.cos(4 * grid[1]) + 50 * (along > 0.1)
    signal = np.where(sum(axis**2 for axis in grid) < 1.4, signal, 0)
    real, imaginary = (noise * rng.standard_normal(shape) for _ in range(2))
    return np.sqrt((signal + real) ** 2 + imaginary**2).astype(np.float32)


def words(model="rician", patch=1, search=2):
    def text(radius):
        return radius if isinstance(radius, int) else ",".join(map(str, radius))

    return [f"--noise-model={model}", f"--patch-radius={text(patch)}", f"--search-radius={text(search)}"]


def compare(ants, topic, folder, output, model="rician", patch=1, search=2, masks=None, shrink=1):
    """Compares the results with those of ANTs for the images of a folder. Masks have the names of images."""
    bad = []
    paths = sorted(folder.glob("*.nii*"))
    for path in paths:
        result = np.asarray(nibabel.load(output / path.name).dataobj)
        more = {"mask": masks / path.name} if masks else {"shrink": shrink}
        expected, _ = ants.denoise(path, model.capitalize(), patch, search, **more)
        assert result.dtype == np.float32 and result.shape == expected.shape, path
        count = differing(result, expected)
        tally.add(f"denoise: {topic}", result.size, count)
        if count:
            bad.append(f"{path.name}: {count} of {result.size} voxels, up to {abs(result - expected).max()}")
    assert paths and not bad, "\n".join(bad)


@needs_ants
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("radii", [*RADII, ((1, 2, 1), (2, 3, 1))])
def test_shapes_and_radii(ants, tmp_path, model, radii):
    rng = np.random.default_rng(20)
    patch, search = radii
    for number, shape in enumerate(SHAPES):
        if len(shape) == 2 and not isinstance(patch, int):
            continue
        array = phantom(rng, shape)
        images.write(tmp_path / "in" / f"{number}.nii", array, affine=images.diagonal(1, 1, 1))
    smooth(tmp_path / "in", tmp_path / "out", *words(model, *radii), command="denoise")
    compare(ants, "shapes and radii", tmp_path / "in", tmp_path / "out", model, *radii)


@needs_ants
@pytest.mark.parametrize("model", MODELS)
def test_odd_voxels(ants, tmp_path, model):
    rng = np.random.default_rng(21)
    shape = (19, 12, 11)
    cases = {f"times_{scale}": phantom(rng, shape) * np.float32(scale) for scale in (1e6, 1e-4, 1e-7)}
    cases["zeros"] = np.where(rng.random(shape) < 0.3, 0, phantom(rng, shape))
    cases["negative"] = phantom(rng, shape) - 90
    cases["constant"] = np.full(shape, 7.25)
    cases["nothing"] = np.zeros(shape)
    cases["ramp"] = np.indices(shape).sum(axis=0) * 3.5
    cases["steps"] = np.indices(shape)[0] // 4 * 10.0
    cases["noise"] = rng.standard_normal(shape) * 50
    for name, array in cases.items():
        images.write(
            tmp_path / "in" / f"{name}.nii", array.astype(np.float32), affine=images.diagonal(1, 1, 1)
        )
    smooth(tmp_path / "in", tmp_path / "out", *words(model), command="denoise")
    compare(ants, "odd voxels", tmp_path / "in", tmp_path / "out", model)


def grids(rng):
    """Name → affine, codes and voxel sizes of a header."""
    upright = np.diag([-2.1648352, 2.1648352, 2.1648352])
    turned = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    sizes = {
        "0.7": np.diag([0.7, 0.7, 0.7]),
        "0.5": np.diag([-0.5, 0.5, 0.55]),
        "1.0": np.diag([-1.0, 1.0, 1.0]),
        "2.165": upright,
        "permuted": (np.eye(3)[[2, 0, 1]] * [1, -1, 1]) @ np.diag([0.9, 1.3, 2.4]),
        "oblique": turned @ np.diag([1.1, 1.2, 0.8]),
        "flipped": np.diag([1.0, -1.2, -3.0]),
    }
    for name, matrix in sizes.items():
        yield name, matrix, rng.uniform(-150, 150, 3)


@needs_ants
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (2, 1), (1, 1), (4, 4)])
def test_grids(ants, tmp_path, model, sform, qform):
    rng = np.random.default_rng(22)
    for round_ in range(3 if ALL else 1):
        for name, matrix, origin in grids(rng):
            array = phantom(rng, (13, 12, 11))
            affine = np.eye(4)
            affine[:3, :3], affine[:3, 3] = matrix, origin
            header = images.header_for(array)
            header.set_qform(affine, code=qform)
            header.set_sform(affine, code=sform)
            images.write(tmp_path / "in" / f"{name}_{round_}.nii", array, header)
    images.write(tmp_path / "in" / "none.nii", phantom(rng, (13, 12, 11)), zooms=(1.5, 0.9, 2.2))
    smooth(tmp_path / "in", tmp_path / "out", *words(model), command="denoise", threads=2)
    compare(ants, "grids", tmp_path / "in", tmp_path / "out", model)


@needs_ants
def test_datatypes(ants, tmp_path):
    rng = np.random.default_rng(23)
    for datatype in images.DATATYPES:
        for slope, inter in ((None, None), (0.375, -5.5)):
            array = phantom(rng, (17, 10, 9)).astype(datatype) // 2
            name = f"{datatype}_{slope}.nii"
            affine = images.diagonal(1, 1, 1)
            images.write(tmp_path / "in" / name, array, slope=slope, inter=inter, affine=affine)
            # ANTs cannot read 64-bit integers, so it gets the intensities.
            single = np.asarray(nibabel.load(tmp_path / "in" / name).dataobj).astype(np.float32)
            images.write(tmp_path / "single" / name, single, affine=affine)
    smooth(tmp_path / "in", tmp_path / "out", command="denoise", threads=2)
    compare(ants, "datatypes", tmp_path / "single", tmp_path / "out")
    smooth(tmp_path / "in", tmp_path / "int16", "--output-type=int16", command="denoise")
    for path in sorted((tmp_path / "out").glob("*.nii")):
        single = np.asarray(nibabel.load(path).dataobj)
        whole = np.asarray(nibabel.load(tmp_path / "int16" / path.name).dataobj)
        assert whole.dtype == np.int16 and (whole == np.rint(single)).all(), path


@needs_ants
def test_volumes_of_a_series(ants, tmp_path):
    rng = np.random.default_rng(24)
    series = np.stack([phantom(rng, (14, 12, 10)) for _ in range(3)], axis=-1)
    images.write(tmp_path / "series" / "a.nii.gz", series, affine=images.diagonal(2, 2, 2))
    for number in range(3):
        volume = np.ascontiguousarray(series[..., number])
        images.write(tmp_path / "in" / f"{number}.nii", volume, affine=images.diagonal(2, 2, 2))
    smooth(tmp_path / "series", tmp_path / "out", command="denoise", threads=2)
    result = np.asarray(nibabel.load(tmp_path / "out" / "a.nii.gz").dataobj)
    for number in range(3):
        expected, _ = ants.denoise(tmp_path / "in" / f"{number}.nii", "Rician", 1, 2)
        count = differing(np.ascontiguousarray(result[..., number]), expected)
        tally.add("denoise: series", expected.size, count)
        assert count == 0


MASK_SHAPES = [(12, 11, 10), (37, 17, 9), (5, 7, 6), (3, 4, 5), (40, 30, 61)]


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """Images in several grids and types, each with a mask of the same name: lumps, nothing, everything, one
    voxel, and the phantom alone."""
    folder = tmp_path_factory.mktemp("masked")
    rng = np.random.default_rng(28)
    for number, (name, matrix, origin) in enumerate(grids(rng)):
        shape = MASK_SHAPES[number % len(MASK_SHAPES)]
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = matrix, origin
        array = phantom(rng, shape)
        one = np.zeros(shape, dtype=bool)
        one[tuple(length // 2 for length in shape)] = True
        kinds = {
            "lumps": mask_of(rng, shape) > 0,
            "nothing": np.zeros(shape),
            "all": np.ones(shape),
            "one": one,
            "phantom": array > 90,
        }
        for kind, inside in kinds.items():
            if kind != "lumps" and number >= 3:
                continue
            voxels = array.astype("int16") if number % 2 else array
            images.write(folder / "in" / f"{name}_{kind}.nii", voxels, affine=affine)
            images.write(folder / "masks" / f"{name}_{kind}.nii", inside.astype("uint8"), affine=affine)
    return folder


@needs_ants
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("radii", [(1, 2), (2, 3), ((1, 2, 1), (2, 3, 1))])
def test_masks(ants, masked, tmp_path, model, radii):
    mask = masked / "masks" / "{stem}"
    more = [*words(model, *radii), "--mask", mask]
    smooth(masked / "in", tmp_path / "out", *more, command="denoise", threads=2)
    compare(ants, "masks", masked / "in", tmp_path / "out", model, *radii, masks=masked / "masks")


@needs_ants
def test_a_mask_of_a_series_and_one_of_the_image_itself(ants, tmp_path):
    rng = np.random.default_rng(29)
    affine = images.diagonal(2, 2, 2)
    shape = (14, 12, 10)
    volumes = [np.where(rng.random(shape) < 0.2, 0, phantom(rng, shape)).astype("float32") for _ in range(3)]
    inside = (mask_of(rng, shape) > 0).astype("uint8")
    images.write(tmp_path / "series" / "a.nii.gz", np.stack(volumes, axis=-1), affine=affine)
    images.write(tmp_path / "mask.nii", inside, affine=affine)
    for number, volume in enumerate(volumes):
        images.write(tmp_path / "in" / f"{number}.nii", volume, affine=affine)
        images.write(tmp_path / "own" / f"{number}.nii", (volume != 0).astype("uint8"), affine=affine)
    for choice in (tmp_path / "mask.nii", "nonzero"):
        output = tmp_path / f"out_{choice == 'nonzero'}"
        smooth(tmp_path / "series", output, "--mask", choice, command="denoise", threads=2)
        result = np.asarray(nibabel.load(output / "a.nii.gz").dataobj)
        for number in range(3):
            own = tmp_path / "own" / f"{number}.nii"
            mask = own if choice == "nonzero" else choice
            expected, _ = ants.denoise(tmp_path / "in" / f"{number}.nii", "Rician", 1, 2, mask=mask)
            count = differing(np.ascontiguousarray(result[..., number]), expected)
            tally.add("denoise: masks of a series", expected.size, count)
            assert count == 0


def test_outside_of_a_mask(masked, tmp_path):
    mask = masked / "masks" / "{stem}"
    results = {}
    for outside in (None, "zero", "keep", "nan"):
        more = ["--mask", mask] if outside is None else ["--mask", mask, "--outside", outside]
        finished = smooth(masked / "in", tmp_path / str(outside), *more, command="denoise")
        assert finished.report["options"].get("outside") == outside
        results[outside] = tmp_path / str(outside)
    for path in sorted((masked / "in").iterdir()):
        inside = np.asarray(nibabel.load(masked / "masks" / path.name).dataobj) > 0
        folders = (masked / "in", *results.values())
        loaded = (np.asarray(nibabel.load(folder / path.name).dataobj) for folder in folders)
        image, computed, zero, keep, nan = loaded
        assert differing(zero, np.where(inside, computed, np.float32(0))) == 0
        assert differing(keep, np.where(inside, computed, image.astype("float32"))) == 0
        assert differing(nan, np.where(inside, computed, np.float32("nan"))) == 0


SHRUNK_SHAPES = [*SHAPES, (13, 14, 15), (37, 17, 9), (20, 18, 61)]


@needs_ants
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shrink", [2, 3, 4, 8])
def test_shrinking(ants, tmp_path, model, shrink):
    rng = np.random.default_rng(41)
    for number, shape in enumerate(SHRUNK_SHAPES * (4 if ALL else 1)):
        order = rng.permutation(3) if len(shape) == 3 and number % 2 else [0, 1, 2]
        affine = np.eye(4)
        affine[:3, :3] = (np.eye(3) * rng.choice([-1, 1], 3))[order] @ np.diag(rng.uniform(0.4, 3.5, 3))
        affine[:3, 3] = rng.uniform(-150, 150, 3)
        if number % 3 == 0:
            affine = images.diagonal(1, 1, 1)
        images.write(tmp_path / "in" / f"{number}.nii", phantom(rng, shape), affine=affine)
    more = [*words(model), f"--shrink={shrink}"]
    smooth(tmp_path / "in", tmp_path / "out", *more, command="denoise", threads=2)
    compare(ants, "shrinking", tmp_path / "in", tmp_path / "out", model, shrink=shrink)


def test_what_shrinking_refuses(tmp_path):
    rng = np.random.default_rng(42)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    images.write(tmp_path / "in" / "oblique.nii", phantom(rng, (9, 8, 7)), affine=affine)
    oblique = smooth(tmp_path / "in", tmp_path / "out", "--shrink=2", command="denoise", expect=1)
    assert "not parallel" in oblique.stderr
    more = ["--shrink=2", "--mask=nonzero"]
    masked = smooth(tmp_path / "in", tmp_path / "no", *more, command="denoise", expect=2)
    assert "--shrink" in masked.stderr and not (tmp_path / "no").exists()


@needs_ants
@pytest.mark.ranks
@pytest.mark.parametrize("model", MODELS)
def test_threads_change_the_result_of_ants_but_not_ours(tmp_path, capsys, model):
    """Prints how many voxels ANTs with several threads has unlike ANTs with one."""
    rng = np.random.default_rng(43)
    image = images.write(
        tmp_path / "in" / "a.nii", phantom(rng, (64, 70, 50)), affine=images.diagonal(1, 1, 1)
    )
    found = {}
    for threads in (1, 2, 4, 8):
        with ants_reference.Ants(tmp_path, threads) as process:
            found[threads], _ = process.denoise(image, model.capitalize(), 1, 2)
    differ = {threads: differing(voxels, found[1]) for threads, voxels in found.items()}
    most = {threads: float(np.abs(voxels - found[1]).max()) for threads, voxels in found.items()}
    for threads in (2, 4, 8):
        percent = 100 * most[threads] / float(np.ptp(found[1]))
        with capsys.disabled():
            print(
                f"\nANTs {model}, {threads} threads: {differ[threads]} of {found[1].size} voxels differ from "
                f"one thread, by up to {percent:.2g} % of the range"
            )
    assert any(differ.values())
    for ranks in (1, 2, 3, 4) if HAS_RANKS else (None,):
        for threads in (1, 2, 3):
            output = tmp_path / f"out_{ranks}_{threads}"
            smooth(tmp_path / "in", output, *words(model), command="denoise", ranks=ranks, threads=threads)
            result = np.asarray(nibabel.load(output / "a.nii").dataobj)
            count = differing(result, found[1])
            tally.add("denoise: ranks and threads", result.size, count)
            assert count == 0, (ranks, threads)


@needs_ants
def test_an_image_of_usual_size(ants, tmp_path, request):
    """Also prints how much faster niimpi is, from CPU seconds in this run."""
    rng = np.random.default_rng(25)
    array = phantom(rng, (91, 109, 91))
    images.write(tmp_path / "in" / "a.nii", array, affine=images.diagonal(2, 2, 2))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished = smooth(tmp_path / "in", tmp_path / "out", command="denoise")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole_s = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    before_s = ants.cpu_s
    compare(ants, "91x109x91", tmp_path / "in", tmp_path / "out")
    ants_s = ants.cpu_s - before_s
    timings = finished.report["images"][0]
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    terminal.write_line(
        f"\ndenoise 91x109x91 rician 1, 2: ANTs {ants_s:.1f} s, niimpi filter {timings['filter_s']:.3f} s "
        f"({ants_s / timings['filter_s']:.1f} x), whole process {whole_s:.3f} s"
    )


def test_not_a_number(tmp_path):
    array = phantom(np.random.default_rng(26), (9, 8, 7))
    array[4, 4, 4] = np.nan
    images.write(tmp_path / "in" / "hole.nii", array)
    refused = smooth(tmp_path / "in", tmp_path / "refused", command="denoise", expect=1)
    assert "--nan zero" in refused.stderr
    smooth(tmp_path / "in", tmp_path / "out", "--nan=zero", command="denoise")
    array[4, 4, 4] = 0
    images.write(tmp_path / "zero" / "hole.nii", array)
    smooth(tmp_path / "zero", tmp_path / "expected", command="denoise")
    assert sums(tmp_path / "out") == sums(tmp_path / "expected")


@pytest.mark.ranks
def test_bytes_do_not_depend_on_ranks_or_threads(tmp_path):
    rng = np.random.default_rng(27)
    for number, shape in enumerate([(40, 30, 70), (21, 18), (12, 11, 10, 3)]):
        volumes = [phantom(rng, shape[:3]) for _ in range(3 if len(shape) == 4 else 1)]
        array = np.stack(volumes, axis=-1) if len(shape) == 4 else volumes[0]
        images.write(tmp_path / "in" / f"{number}.nii.gz", array, zooms=(2,) * min(len(shape), 3))
    ways = {
        "masked": ["--mask=nonzero"],
        "shrunk": ["--shrink=2"],
        "noise": ["--output-noise={dir}/{stem}_noise"],
    }
    for way, more in ways.items():
        smooth(tmp_path / "in", tmp_path / way, *more, command="denoise")
        expected = sums(tmp_path / way)
        # Plain ones are compared above.
        for ranks in (1, 3) if HAS_RANKS else (None,):
            for threads in (1, 2, 3):
                output = tmp_path / f"{way}_{ranks}_{threads}"
                smooth(tmp_path / "in", output, *more, command="denoise", ranks=ranks, threads=threads)
                assert sums(output) == expected, (way, ranks, threads)
