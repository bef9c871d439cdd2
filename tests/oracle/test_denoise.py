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
from program import smooth
from reference import differing, tally
from test_ranks import sums

pytestmark = pytest.mark.timeout(600)
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


def compare(ants, topic, folder, output, model="rician", patch=1, search=2):
    """Compares the results with those of ANTs for the images of a folder."""
    bad = []
    paths = sorted(folder.glob("*.nii*"))
    for path in paths:
        result = np.asarray(nibabel.load(output / path.name).dataobj)
        expected, _ = ants.denoise(path, model.capitalize(), patch, search)
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
