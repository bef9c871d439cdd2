"""niimpi denoise --output-noise: the noise is a second file of the same outcome."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

import ants_reference
import images
from program import run, smooth
from reference import differing, tally
from test_denoise import MODELS, phantom, words
from test_resume import lines, resume

pytestmark = pytest.mark.timeout(240)
needs_ants = pytest.mark.skipif(ants_reference.MISSING is not None, reason=str(ants_reference.MISSING))

NOISE = "--output-noise={dir}/{stem}_noise"


def voxels(path):
    return np.asarray(nibabel.load(path).dataobj)


def noise_beside(path):
    stem, suffix = path.name.split(".", 1)
    return path.with_name(f"{stem}_noise.{suffix}")


def check_difference(source, output):
    """The result is the image less the noise, all in single precision."""
    paths = sorted(source.rglob("*.nii*"))
    for path in paths:
        place = output / path.relative_to(source)
        noise = voxels(noise_beside(place))
        assert noise.dtype == np.float32 and noise.any(), path
        expected = voxels(path).astype("float32") - noise
        count = differing(voxels(place), expected)
        tally.add("denoise: noise", noise.size, count)
        assert count == 0, path
        assert (nibabel.load(noise_beside(place)).affine == nibabel.load(place).affine).all()
    return paths


@pytest.fixture
def study(tmp_path):
    """Images of several shapes and types, in folders."""
    rng = np.random.default_rng(50)
    affine = images.diagonal(2, 2, 2)
    series = np.stack([phantom(rng, (14, 12, 10)) for _ in range(3)], axis=-1)
    images.write(tmp_path / "in" / "s1" / "series.nii.gz", series, affine=affine)
    images.write(tmp_path / "in" / "s1" / "a.nii", phantom(rng, (13, 12, 11)), affine=affine)
    images.write(tmp_path / "in" / "s2" / "a.nii.gz", phantom(rng, (40, 30, 61)), affine=affine)
    images.write(tmp_path / "in" / "whole.nii.gz", phantom(rng, (20, 18, 16)).astype("int16"), affine=affine)
    return tmp_path


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("more", [[], ["--shrink=2"], ["--noise-model=gaussian", "--mask=nonzero"]])
def test_the_result_is_the_image_less_the_noise(study, threads, more):
    finished = smooth(study / "in", study / "out", NOISE, *more, command="denoise", threads=threads)
    assert len(check_difference(study / "in", study / "out")) == 4
    for row in finished.report["images"]:
        path = study / row["output"]
        assert row["bytes_out"] == path.stat().st_size + noise_beside(path).stat().st_size


def test_no_noise_was_removed_outside_of_a_mask(study):
    words = [NOISE, "--mask=nonzero", "--outside=keep"]
    array = voxels(study / "in" / "s1" / "a.nii").copy()
    array[:5] = 0
    image = images.write(study / "one" / "a.nii", array)
    smooth(study / "one", study / "out", *words, command="denoise")
    noise = voxels(study / "out" / "a_noise.nii")
    assert (noise[array == 0] == 0).all() and noise.any()
    assert differing(voxels(study / "out" / "a.nii"), voxels(image) - noise) == 0


@needs_ants
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("shrink", [1, 2])
def test_the_noise_of_ants(study, tmp_path, model, shrink):
    """The command DenoiseImage writes the noise, too."""
    rng = np.random.default_rng(51)
    affine = images.diagonal(2.1, 1.9, 2)
    for number, shape in enumerate([(13, 12, 11), (40, 30, 61), (20, 18, 16)]):
        images.write(tmp_path / "ants" / f"{number}.nii", phantom(rng, shape), affine=affine)
    more = [NOISE, *words(model), f"--shrink={shrink}"]
    smooth(tmp_path / "ants", tmp_path / "out", *more, command="denoise", threads=2)
    with ants_reference.Ants(tmp_path) as ants:
        for path in sorted((tmp_path / "ants").iterdir()):
            expected, _ = ants.denoise(path, model.capitalize(), 1, 2, shrink=shrink, noise=True)
            count = differing(voxels(noise_beside(tmp_path / "out" / path.name)), expected)
            tally.add("denoise: noise of ANTs", expected.size, count)
            assert count == 0, path


def test_both_files_are_one_outcome(study):
    out = study / "out"
    finished = smooth(study / "in", out, NOISE, command="denoise")
    assert finished.report["totals"]["done"] == 4
    recorded = [line for line in lines(out) if line["event"] == "end"]
    assert all(len(line["files_out"]) == 2 for line in recorded)
    status = run(["status", str(out)])
    assert status.code == 0 and "4" in status.stdout, status
    checked = run(["verify", str(out), "--against", "journal"])
    assert checked.code == 0 and "4 of 4 images are intact" in checked.stdout, checked

    def again(*more):
        return resume(study / "in", out, NOISE, *more, command="denoise")

    assert again() == {"kept": 4}
    noise = out / "s1" / "a_noise.nii"
    # Without its noise an image is not done.
    noise.unlink()
    checked = run(["verify", str(out), "--against", "journal"])
    assert checked.code == 1 and "a_noise.nii is missing" in checked.stdout, checked
    assert again() == {"kept": 3, "missing": 1}
    check_difference(study / "in", out)
    # Damaged noise is found and removed with its image.
    damaged = bytearray(noise.read_bytes())
    damaged[-7] ^= 1
    noise.write_bytes(damaged)
    refused = run(["denoise", str(study / "in"), "--output", str(out), NOISE, "--resume"])
    assert refused.code == 2 and "changed since" in refused.stderr, refused
    checked = run(["verify", str(out), "--against", "journal", "--remove"])
    assert checked.code == 1 and not noise.exists() and not (out / "s1" / "a.nii").exists(), checked
    assert again() == {"kept": 3, "missing": 1}
    check_difference(study / "in", out)
    # With another name, or without noise, the options are others.
    for other in (["--output-noise={dir}/{stem}_n"], []):
        refused = run(["denoise", str(study / "in"), "--output", str(out), *other, "--resume"])
        assert refused.code == 2 and "made with other options" in refused.stderr, refused


def test_a_record_without_noise_says_nothing_about_noise(study, tmp_path):
    out = tmp_path / "out"
    smooth(study / "in", out, command="denoise")
    smooth(study / "in", out, NOISE, "--overwrite", command="denoise")
    noise = out / "s1" / "a_noise.nii"
    noise.unlink()
    checked = run(["verify", str(out), "--against", "journal"])
    assert checked.code == 1 and "a_noise.nii is missing" in checked.stdout, checked
    # Without noise in the last record, a file of that name is another image's.
    smooth(study / "in", out, "--overwrite", command="denoise")
    images.write(noise, np.zeros((5, 5, 5), "float32"))
    (out / "s1" / "a.nii").unlink()
    checked = run(["verify", str(out), "--against", "journal", "--remove"])
    assert checked.code == 1 and noise.exists(), checked


def refused(study, *words, said):
    output = study / "refused"
    existed = output.exists()
    finished = run(["denoise", str(study / "in"), "--output", str(output), *map(str, words)])
    assert finished.code == 2 and said in finished.stderr, finished
    assert output.exists() == existed


def test_names_that_would_lose_a_file_are_refused(study):
    refused(study, "--output-noise={stem}_noise", said="gives")
    refused(study, "--output-noise={dir}/{stem}", said="the same folder")
    refused(study, "--output-noise=noise/{dir}/{stem}", said="the same folder")
    refused(study, "--output-noise=../{dir}/{stem}_noise", said="the same folder")
    refused(study, "--output-noise={dir}/{stem}_noise.hdr", said="the same folder")
    refused(study, "--output-noise={name}", said="{stem}, {index} and {dir}")
    refused(study, "--output-noise={dir}/noise_{index}", said="changes with the list")
    refused(study, "--output-noise={dir}/noise.nii.gz", said="two inputs for one output")
    images.write(study / "in" / "s1" / "a_noise.nii", np.zeros((5, 5, 5), "float32"))
    refused(study, NOISE, said="two inputs for one output")
    (study / "in" / "s1" / "a_noise.nii").unlink()
    # A file that is nobody's result.
    images.write(study / "refused" / "s1" / "a_noise.nii", np.zeros((5, 5, 5), "float32"))
    before = (study / "refused" / "s1" / "a_noise.nii").read_bytes()
    refused(study, NOISE, said="already exist")
    refused(study, NOISE, "--resume", said="without a record")
    assert (study / "refused" / "s1" / "a_noise.nii").read_bytes() == before


def test_an_input_is_not_replaced_by_noise(study):
    names = ["a.nii", "x/a_noise.nii"]
    for number, name in enumerate(names):
        images.write(study / "both" / name, phantom(np.random.default_rng(52 + number), (9, 8, 7)))
    inputs = [f"{study}/both/./a.nii", f"{study}/both/x/./a_noise.nii"]
    words = ["denoise", *inputs, "--output", f"{study}/both/x", "--name={stem}_d"]
    finished = run([*words, "--output-noise={stem}_noise"])
    assert finished.code == 2 and "would be overwritten" in finished.stderr, finished
    assert run([*words, "--output-noise={stem}_n"]).code == 0


def test_the_report_has_the_options(study):
    finished = smooth(study / "in", study / "out", NOISE, command="denoise")
    report = json.loads(finished.report_path.read_text())
    assert report["options"]["filter"]["output_noise"] == "{dir}/{stem}_noise"
    for row in report["images"]:
        assert row["output_noise"] == str(noise_beside(Path(row["output"])))
    csv = run(["report", "show", str(finished.report_path), "--format=csv", "--rows=images"])
    assert ",output_noise," in csv.stdout.splitlines()[0] and "/s1/a_noise.nii" in csv.stdout, csv


def test_a_dry_run_names_the_noise(study):
    planned = run(["denoise", str(study / "in"), "--output", str(study / "out"), NOISE, "--dry-run"])
    assert planned.code == 0 and f"{study}/out/s1/a_noise.nii " in planned.stdout, planned
    without = run(["denoise", str(study / "in"), "--output", str(study / "out"), "--dry-run"])
    columns = [it.stdout.splitlines()[1].split() for it in (planned, without)]
    assert without.code == 0 and ["noise" in names for names in columns] == [True, False], columns
