"""--qc: compares the figures with numpy's, and the smoothness with the formula of AFNI's `3dFWHMx -classic`
(`mri_estimate_FWHM_1dif`). Checks the pictures, and that both survive --resume and merge."""

import base64
import csv
import json
import struct
import zlib

import nibabel
import numpy as np
import pytest

import images
from program import HAS_RANKS, run, smooth

pytestmark = pytest.mark.timeout(120)

RANKS = 2 if HAS_RANKS else None
ZOOMS = (1.5, 2, 3)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qc") / "in"
    rng = np.random.default_rng(7)
    arrays = {kind: images.random_array(rng, (21, 18, 10), kind) for kind in images.DATATYPES}
    arrays["series"] = rng.integers(-40, 400, (17, 9, 8, 3), dtype="int16")
    arrays["flat"] = rng.integers(0, 50, (12, 30), dtype="uint8")
    arrays["constant"] = np.full((6, 5, 4), 3, "int16")
    holes = (rng.standard_normal((20, 11, 9)) + 5).astype("float32")
    holes[3:9, 2:6, 1:4], holes[0, 0, 0], holes[19, 10, 8] = np.nan, np.inf, 0
    arrays["holes"] = holes
    arrays["nothing"] = np.full((5, 5, 5), np.nan, "float32")
    clipped = rng.integers(0, 400, (16, 16, 8), dtype="int16")
    clipped[4:6], clipped[9, 3:5], clipped[2] = 32767, -32768, 0
    arrays["clipped"] = clipped
    for name, array in arrays.items():
        images.write(folder / f"{name}.nii.gz", array, zooms=ZOOMS)
    images.write(folder / "big_endian.nii", arrays["float32"], zooms=ZOOMS, order=">")
    scaled = rng.integers(0, 900, (16, 9, 12), dtype="int16")
    images.write(folder / "scaled.nii.gz", scaled, zooms=ZOOMS, slope=-0.25, inter=100)
    return folder


def fwhm_mm(volume, axis, zoom):
    """AFNI's mri_estimate_FWHM_1dif along one axis, or None where it returns -1."""
    finite = volume[np.isfinite(volume)]
    differences = np.diff(volume, axis=axis)
    differences = differences[np.isfinite(differences)]
    if finite.size < 9 or differences.size < 6 or np.var(finite, ddof=1) <= 0:
        return None
    arg = 1 - 0.5 * np.var(differences, ddof=1) / np.var(finite, ddof=1)
    return 2.35482 * np.sqrt(-1 / (4 * np.log(arg))) * zoom if 0 < arg < 1 else None


def mean(values):
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else None


def figures(path):
    image = nibabel.load(path)
    stored, array = np.asarray(image.dataobj.get_unscaled()), np.asarray(image.dataobj).astype("float64")
    volumes = array[..., None] if array.ndim == 3 else array
    volumes = array[:, :, None, None] if array.ndim == 2 else volumes
    finite = array[np.isfinite(array)]
    shape = volumes.shape[:3]
    edges = [[i < -(-n // 8) or i >= n + (-n // 8) for i in range(n)] for n in shape]
    corners = volumes[np.ix_(*edges)]
    corners = corners[np.isfinite(corners)]
    series = [volumes[..., t] for t in range(volumes.shape[3])]
    limits = np.iinfo(stored.dtype) if stored.dtype.kind in "iu" else None
    saturated = limits and (stored == limits.max) | ((stored == limits.min) & (limits.min < 0))
    with np.errstate(invalid="ignore"):
        return {
            "min": float(finite.min()) if finite.size else None,
            "max": float(finite.max()) if finite.size else None,
            "mean": float(finite.mean()) if finite.size else None,
            "sd": float(finite.std(ddof=1)) if finite.size else None,
            "noise": float(corners.std(ddof=1)) if corners.size else None,
            "fwhm_mm": [mean(fwhm_mm(one, axis, ZOOMS[axis]) for one in series) for axis in range(3)],
            "nonfinite_voxels": int((~np.isfinite(array)).sum()),
            "saturated_voxels": int(np.sum(saturated)) if limits else 0,
            "zero_voxels": int((array == 0).sum()),
        }


def assert_close(found, expected, where):
    for name, value in expected.items():
        ours = found[name]
        for one, other in zip(*[it if isinstance(it, list) else [it] for it in (ours, value)], strict=True):
            if other is None or isinstance(other, int):
                assert one == other, (where, name, ours, value)
            else:
                assert one == pytest.approx(other, rel=2e-6, abs=1e-9), (where, name, ours, value)


def measured(report):
    return {row["input"].rpartition("/")[2]: row for row in report["images"]}


def pixels(path):
    """The grey levels of a PNG picture."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    place, data = 8, b""
    while place < len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        chunk = content[place + 8 : place + 8 + length]
        assert zlib.crc32(kind + chunk) == struct.unpack(">I", content[place + 8 + length :][:4])[0]
        if kind == b"IHDR":
            width, height, depth, color = struct.unpack(">IIBB", chunk[:10])
        data += chunk if kind == b"IDAT" else b""
        place += length + 12
    assert (depth, color) == (8, 0)
    rows = np.frombuffer(zlib.decompress(data), "uint8").reshape(height, width + 1)
    out = np.zeros((height + 1, width + 1), int)
    for y, row in enumerate(rows, 1):
        for x, raw in enumerate(row[1:], 1):
            left, up, corner = out[y, x - 1], out[y - 1, x], out[y - 1, x - 1]
            guess = left + up - corner
            nearest = min((left, up, corner), key=lambda one: abs(guess - one))
            out[y, x] = (raw + (0, left, up, (left + up) // 2, nearest)[row[0]]) % 256
    return out[1:, 1:]


@pytest.mark.parametrize("threads", [1, 3])
def test_the_figures_are_numpys(source, tmp_path, threads):
    out = tmp_path / "out"
    report = smooth(source, out, "--fwhm=5", "--qc", threads=threads).report
    rows = measured(report)
    assert len(rows) == len(list(source.iterdir()))
    for name, row in rows.items():
        assert_close(row["quality"]["before"], figures(source / name), f"{name} before")
        assert_close(row["quality"]["after"], figures(out / name), f"{name} after")
        assert (out / ".niimpi/pictures" / row["quality"]["picture"]).stat().st_size < 100_000
    assert rows["clipped.nii.gz"]["quality"]["before"]["saturated_voxels"] == 2 * 16 * 8 + 2 * 8
    journals = "".join(path.read_text() for path in (out / ".niimpi").glob("journal-*"))
    assert journals.count('"quality":') == len(rows)
    smooth_ones = rows["series.nii.gz"]["quality"]
    assert all(a > 4 for a in smooth_ones["after"]["fwhm_mm"])


def test_threads_and_ranks_give_the_same_figures(source, tmp_path):
    """More threads than images, so that several read, filter and compress one image together."""
    runs = [(None, 1), (None, 40), (RANKS, 3)]
    found = []
    for place, (ranks, threads) in enumerate(runs):
        options = {"ranks": ranks, "threads": threads}
        rows = measured(smooth(source, tmp_path / f"{place}", "--sigma=1", "--qc", **options).report)
        found.append({name: row["quality"] for name, row in rows.items()})
    assert found[0] == found[1] == found[2]


def test_the_estimate_finds_the_width_of_a_filter(tmp_path):
    """White noise filtered with a FWHM of 6 mm has this smoothness."""
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((64, 64, 64)).astype("float32")
    images.write(tmp_path / "in/noise.nii", noise, zooms=(1.5, 1.5, 1.5))
    report = smooth(tmp_path / "in", tmp_path / "out", "--fwhm=6", "--qc").report
    found = report["images"][0]["quality"]
    # The smoothest estimate that white noise has by chance, and the 6 mm, to 3 %.
    assert all(axis is None or axis < 1.5 for axis in found["before"]["fwhm_mm"])
    assert found["after"]["fwhm_mm"] == pytest.approx([6, 6, 6], rel=0.03)


def test_the_picture_shows_the_central_slices(tmp_path):
    ramp = np.zeros((48, 96, 24), "int16")
    ramp[24, :, :] = np.arange(96)[:, None]
    images.write(tmp_path / "in/ramp.nii", ramp, zooms=(2, 1, 2))
    smooth(tmp_path / "in", tmp_path / "out", "--sigma=0", "--qc")
    grey = pixels(tmp_path / "out/.niimpi/pictures/ramp.nii.png")
    # Sagittal 96 × 48, coronal 96 × 48, axial 96 × 96, two pixels apart.
    assert grey.shape == (2 * 96 + 2, 3 * 96 + 2 * 2)
    sagittal, below = grey[24:72, :96], grey[98 + 24 : 98 + 72, :96]
    assert (np.diff(sagittal[10].astype(int)) >= 0).all() and sagittal[10, 0] == 0
    assert sagittal[10, 95] == 255 and (sagittal == below).all()
    # The axial slice has the ramp from bottom to top.
    axial = grey[:96, 196:]
    assert axial[0, 48] == 255 and axial[95, 48] == 0 and (axial[:, :40] == 0).all()


def test_nothing_is_measured_without_the_option(source, tmp_path):
    out = tmp_path / "out"
    report = smooth(source, out, "--fwhm=5", "--report-csv").report
    assert not (out / ".niimpi/pictures").exists()
    assert all("quality" not in row for row in report["images"])
    table = csv.DictReader((tmp_path / "out.report.images.csv").open())
    assert "before_mean" not in table.fieldnames


def test_results_do_not_depend_on_it(source, tmp_path):
    smooth(source, tmp_path / "a", "--fwhm=5")
    smooth(source, tmp_path / "b", "--fwhm=5", "--qc")
    for path in source.iterdir():
        assert (tmp_path / "a" / path.name).read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    # Not an option of the results: a run without it keeps them.
    assert smooth(source, tmp_path / "b", "--fwhm=5", "--resume").report["totals"]["done"] == 0


def test_figures_and_pictures_survive_resume_and_merge(source, tmp_path):
    out, count = tmp_path / "out", len(list(source.iterdir()))
    first = smooth(source, out, "--fwhm=5", "--qc", "--limit=5").report
    page = tmp_path / "page.html"
    again = smooth(source, out, "--fwhm=5", "--qc", "--resume", f"--report-html={page}").report
    rows = measured(again)
    assert again["totals"]["kept"] == 5
    for name, row in measured(first).items():
        assert rows[name]["status"] == "skipped" and rows[name]["quality"] == row["quality"]
    text = page.read_text()
    assert text.count("data:image/png;base64,") == count
    assert base64.b64encode((out / ".niimpi/pictures/holes.nii.gz.png").read_bytes()).decode() in text

    shards = [tmp_path / f"{part}.json" for part in (1, 2)]
    for part, path in enumerate(shards, 1):
        smooth(source, tmp_path / "s", "--fwhm=5", "--qc", f"--shard={part}/2", report=path)
    merged = tmp_path / "merged.json"
    assert run(["report", "merge", *map(str, shards), "--output", str(merged)]).code == 0
    all_rows = measured(json.loads(merged.read_text()))
    assert {name: row["quality"] for name, row in all_rows.items()} == {
        name: row["quality"] for name, row in rows.items()
    }
    shown = run(["report", "show", str(merged), "--format", "html"])
    assert shown.stdout.count("data:image/png;base64,") == count
    table = run(["report", "show", str(merged), "--format", "csv", "--rows", "images"]).stdout
    first_row = next(csv.DictReader(table.splitlines()))
    quality = all_rows[first_row["input"].rpartition("/")[2]]["quality"]
    assert float(first_row["before_sd"]) == quality["before"]["sd"]
    assert int(first_row["after_zero_voxels"]) == quality["after"]["zero_voxels"]
    assert first_row["picture"] == quality["picture"]


def test_a_picture_that_cannot_be_written_is_a_warning(source, tmp_path):
    out = tmp_path / "out"
    (out / ".niimpi").mkdir(parents=True)
    (out / ".niimpi/pictures").write_text("a file")
    report = smooth(source / "flat.nii.gz", out, "--fwhm=5", "--qc").report
    row = report["images"][0]
    assert row["quality"]["picture"] is None and row["status"] == "done"
    assert [warning["kind"] for warning in row["warnings"]] == ["picture"]


def test_an_outlier_comes_first(tmp_path):
    rng = np.random.default_rng(5)
    for place in range(12):
        array = rng.normal(100, 10, (12, 12, 12)).astype("float32")
        array = array * 5 if place == 4 else array
        images.write(tmp_path / f"in/{place}.nii", array)
    page = tmp_path / "page.html"
    smooth(tmp_path / "in", tmp_path / "out", "--sigma=1", "--qc", f"--report-html={page}")
    text = page.read_text()
    assert "outlier" in text and text.index("mean before 5") < text.index('id="timeline"')
    assert text.index("in/4.nii") < text.index("in/0.nii")
