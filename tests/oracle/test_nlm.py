"""niimpi denoise --method nlm and nlm-blockwise: the bits of dipy on one thread, and the same bytes however
the work is shared.
"""

import resource

import nibabel
import numpy as np
import pytest

import dipy_reference
import images
from program import HAS_RANKS, smooth
from reference import differing, tally
from test_denoise import phantom
from test_ranks import sums

pytestmark = [pytest.mark.timeout(600), pytest.mark.arithmetic]
needs_dipy = pytest.mark.skipif(dipy_reference.MISSING is not None, reason=str(dipy_reference.MISSING))

MODELS = ("rician", "gaussian")
METHODS = {"nlm": "classic", "nlm-blockwise": "blockwise"}
# Patch radius and block radius.
RADII = {"nlm": [(1, 5), (1, 2), (2, 4)], "nlm-blockwise": [(1, 2), (2, 1), (1, 4)]}
SHAPES = [(6, 7, 8), (12, 11, 10), (20, 9, 7), (7, 19, 6), (33, 8, 13)]


@pytest.fixture(scope="module")
def dipy(tmp_path_factory):
    with dipy_reference.Dipy(tmp_path_factory.mktemp("dipy")) as process:
        yield process


def words(method, model="rician", patch=1, block=None, sigma=None):
    given = {"method": method, "noise-model": model, "patch-radius": patch, "block-radius": block}
    given["sigma-noise"] = sigma
    return [f"--{name}={value}" for name, value in given.items() if value is not None]


def compare(
    dipy, topic, folder, method, model="rician", patch=1, block=None, sigma=None, threads=1, masks=None
):
    """Denoises the images of a folder as doubles and compares them with what dipy makes of them. `masks` is
    the folder of their masks."""
    output = folder.with_name(f"{folder.name}_{method}_{model}_{patch}_{block}_{sigma}")
    typed = words(method, model, patch, block, sigma)
    typed += [f"--mask={masks}/{{stem}}"] if masks else []
    smooth(folder, output, *typed, "--output-type=float64", command="denoise", threads=threads)
    bad = []
    paths = sorted(folder.glob("*.nii*"))
    for path in paths:
        result = np.asarray(nibabel.load(output / path.name).dataobj)
        mask = masks and masks / path.name
        expected = dipy.denoise(path, METHODS[method], sigma, patch, block, model == "rician", mask)
        assert result.dtype == np.float64 and result.shape == expected.shape, path
        count = differing(result, expected)
        tally.add(f"{method}: {topic}", result.size, count)
        if count:
            bad.append(f"{path.name}: {count} of {result.size} voxels, up to {abs(result - expected).max()}")
    assert paths and not bad, "\n".join(bad)
    return output


@needs_dipy
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_shapes_and_radii(dipy, tmp_path, method, model):
    rng = np.random.default_rng(30)
    for number, shape in enumerate(SHAPES):
        images.write(tmp_path / "in" / f"{number}.nii", phantom(rng, shape))
    for patch, block in RADII[method]:
        for sigma in (None, 9.25):
            compare(dipy, "shapes and radii", tmp_path / "in", method, model, patch, block, sigma)


@needs_dipy
@pytest.mark.parametrize("method", METHODS)
def test_odd_voxels(dipy, tmp_path, method):
    rng = np.random.default_rng(31)
    shape = (19, 12, 11)
    cases = {f"times_{scale}": phantom(rng, shape) * np.float32(scale) for scale in (1e6, 1e-4, 1e-7)}
    cases["zeros"] = np.where(rng.random(shape) < 0.3, 0, phantom(rng, shape))
    cases["negative"] = phantom(rng, shape) - 90
    cases["ramp"] = np.indices(shape).sum(axis=0) ** 2 * 3.5
    cases["steps"] = np.indices(shape)[0] // 4 * 10.0
    # Weights down to the smallest numbers, and beyond.
    cases["clean"] = phantom(rng, shape, 0.01) * (np.indices(shape)[1] > 5)
    cases["noise"] = rng.standard_normal(shape) * 50
    for name, array in cases.items():
        images.write(tmp_path / "in" / f"{name}.nii", array.astype(np.float64))
    for sigma in (None, 3.7):
        for model in MODELS:
            compare(dipy, "odd voxels", tmp_path / "in", method, model, sigma=sigma, threads=2)


@needs_dipy
@pytest.mark.parametrize("method", METHODS)
def test_masks(dipy, tmp_path, method):
    """Masks of several densities, one without a voxel inside, and a series with one mask for all volumes."""
    rng = np.random.default_rng(38)
    cases = [(SHAPES[2], 0.3), (SHAPES[4], 0.9), ((14, 12, 10, 2), 0.6), (SHAPES[0], 0)]
    for number, (shape, part) in enumerate(cases):
        volumes = [phantom(rng, shape[:3]) for _ in range(shape[3] if len(shape) == 4 else 1)]
        array = np.stack(volumes, axis=-1).reshape(shape)
        images.write(tmp_path / "in" / f"{number}.nii.gz", array)
        mask = (rng.random(shape[:3]) < part).astype(np.int16)
        images.write(tmp_path / "masks" / f"{number}.nii.gz", mask)
    for sigma in (None, 9.25):
        for model in MODELS:
            how = {"model": model, "sigma": sigma, "threads": 2, "masks": tmp_path / "masks"}
            output = compare(dipy, "masks", tmp_path / "in", method, **how)
    # The other values outside.
    typed = [*words(method, model, sigma=sigma), f"--mask={tmp_path}/masks/{{stem}}", "--outside=keep"]
    smooth(tmp_path / "in", tmp_path / "keep", *typed, "--output-type=float64", command="denoise")
    for path in sorted((tmp_path / "in").iterdir()):
        folders = (tmp_path / "in", tmp_path / "keep", output)
        array, kept, zero = (np.asarray(nibabel.load(folder / path.name).dataobj) for folder in folders)
        inside = np.asarray(nibabel.load(tmp_path / "masks" / path.name).dataobj) > 0
        inside = inside.reshape(inside.shape + (1,) * (array.ndim - 3))
        assert differing(kept, np.where(inside, zero, array)) == 0, path
    typed[-1:] = ["--outside=nan", "--output-type=int16"]
    refused = smooth(tmp_path / "in", tmp_path / "out", *typed, command="denoise", expect=2)
    assert "int16 has no NaN" in refused.stderr, refused
    holed = phantom(rng, SHAPES[2])
    holed[3, 4, 5] = np.nan
    mask = np.ones(holed.shape, np.int16)
    mask[3, 4, 5] = 0
    image = images.write(tmp_path / "holed" / "a.nii", holed)
    mask = images.write(tmp_path / "holed_mask.nii", mask)
    failed = smooth(image, tmp_path / "out", *words(method), f"--mask={mask}", command="denoise", expect=1)
    assert "--nan zero" in failed.stderr, failed


@needs_dipy
@pytest.mark.parametrize("method", METHODS)
def test_datatypes(dipy, tmp_path, method):
    """Also that the default output is the same result, rounded to single precision or to whole numbers."""
    rng = np.random.default_rng(32)
    for datatype in images.DATATYPES:
        for slope, inter in ((None, None), (0.375, -5.5)):
            array = phantom(rng, (17, 10, 9)).astype(datatype) // 2
            images.write(tmp_path / "in" / f"{datatype}_{slope}.nii", array, slope=slope, inter=inter)
    double = compare(dipy, "datatypes", tmp_path / "in", method, threads=2)
    smooth(tmp_path / "in", tmp_path / "out", *words(method), command="denoise")
    smooth(tmp_path / "in", tmp_path / "int16", "--output-type=int16", *words(method), command="denoise")
    for path in sorted((tmp_path / "in").glob("*.nii")):
        expected = np.asarray(nibabel.load(double / path.name).dataobj)
        single = np.asarray(nibabel.load(tmp_path / "out" / path.name).dataobj)
        whole = np.asarray(nibabel.load(tmp_path / "int16" / path.name).dataobj)
        assert single.dtype == np.float32 and (single == expected.astype(np.float32)).all(), path
        assert whole.dtype == np.int16 and (whole == np.rint(expected)).all(), path


@needs_dipy
@pytest.mark.parametrize("method", METHODS)
def test_volumes_of_a_series(dipy, tmp_path, method):
    rng = np.random.default_rng(33)
    series = np.stack([phantom(rng, (14, 12, 10), 3.0 + 4 * number) for number in range(3)], axis=-1)
    images.write(tmp_path / "in" / "a.nii.gz", series)
    for sigma in (None, 6.5):
        compare(dipy, "series", tmp_path / "in", method, sigma=sigma, threads=2)


@needs_dipy
@pytest.mark.parametrize("method", METHODS)
def test_an_image_of_usual_size(dipy, tmp_path, request, method):
    """Also prints how much faster niimpi is, by processor seconds in this very run."""
    rng = np.random.default_rng(34)
    images.write(tmp_path / "in" / "a.nii", phantom(rng, (91, 109, 91)).round().astype(np.uint8))
    before_s = dipy.cpu_s
    output = compare(dipy, "91x109x91", tmp_path / "in", method)
    dipy_s = dipy.cpu_s - before_s
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    again = tmp_path / "again"
    finished = smooth(tmp_path / "in", again, *words(method), "--output-type=float64", command="denoise")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert sums(again) == sums(output)
    whole_s = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    filter_s = finished.report["images"][0]["filter_s"]
    terminal = request.config.pluginmanager.get_plugin("terminalreporter")
    terminal.write_line(
        f"\n{method} 91x109x91: dipy {dipy_s:.2f} s, niimpi filter {filter_s:.3f} s "
        f"({dipy_s / filter_s:.1f} x), whole process {whole_s:.3f} s"
    )


@pytest.mark.parametrize("method", METHODS)
def test_what_is_refused(tmp_path, method):
    rng = np.random.default_rng(35)
    images.write(tmp_path / "flat" / "a.nii", phantom(rng, (16, 16, 2)))
    refused = smooth(tmp_path / "flat", tmp_path / "out", *words(method), command="denoise", expect=1)
    assert "16 × 16 × 2 voxels" in refused.stderr
    images.write(tmp_path / "constant" / "a.nii", np.full((9, 9, 9), 7.0))
    refused = smooth(tmp_path / "constant", tmp_path / "out", *words(method), command="denoise", expect=1)
    assert "sigma-noise: the noise of volume 1 is estimated as 0" in refused.stderr
    hole = phantom(rng, (9, 8, 7))
    hole[4, 4, 4] = np.nan
    images.write(tmp_path / "hole" / "a.nii", hole)
    refused = smooth(tmp_path / "hole", tmp_path / "out", *words(method), command="denoise", expect=1)
    assert "--nan zero" in refused.stderr
    for extra, said in (
        ("--search-radius=2", "--search-radius is not an option"),
        ("--patch-radius=1,2,1", "one value for all axes"),
        ("--block-radius=0", "block-radius"),
        ("--sigma-noise=0", "sigma-noise"),
        ("--sigma-noise=nan", "sigma-noise"),
    ):
        typed = [f"--method={method}", extra]
        refused = smooth(tmp_path / "flat", tmp_path / "out", *typed, command="denoise", expect=2)
        assert said in refused.stderr


def test_options_of_other_methods_are_refused(tmp_path):
    images.write(tmp_path / "in" / "a.nii", phantom(np.random.default_rng(36), (9, 8, 7)))
    for extra in ("--block-radius=5", "--sigma-noise=estimate"):
        refused = smooth(tmp_path / "in", tmp_path / "out", extra, command="denoise", expect=2)
        assert "not an option of --method anlm" in refused.stderr


@pytest.mark.ranks
@pytest.mark.parametrize("method", METHODS)
def test_bytes_do_not_depend_on_ranks_or_threads(tmp_path, method):
    rng = np.random.default_rng(37)
    for number, shape in enumerate([(14, 13, 40), (12, 11, 10), (9, 8, 11, 3)]):
        volumes = [phantom(rng, shape[:3]) for _ in range(3 if len(shape) == 4 else 1)]
        array = np.stack(volumes, axis=-1) if len(shape) == 4 else volumes[0]
        images.write(tmp_path / "in" / f"{number}.nii.gz", array)
    smooth(tmp_path / "in", tmp_path / "base", *words(method), command="denoise")
    expected = sums(tmp_path / "base")
    for ranks in (1, 2, 3, 4) if HAS_RANKS else (None,):
        for threads in (1, 2, 3):
            output = tmp_path / f"out_{ranks}_{threads}"
            smooth(tmp_path / "in", output, *words(method), command="denoise", ranks=ranks, threads=threads)
            assert sums(output) == expected, (ranks, threads)
