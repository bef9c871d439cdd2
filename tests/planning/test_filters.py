"""Plans and studies of every filter, with and without masks."""

import json
import shlex
import shutil

import pytest

from filters import FILTERS
from program import HAS_RANKS, run

# A pilot on one CPU measures only one layout.
ONE_CPU = ["taskset", "-c", "0"]


def on_one_cpu(*words, expect=0, **others):
    finished = run([str(word) for word in words], timeout=120, prefix=ONE_CPU, **others)
    assert finished.code == expect, finished
    return finished


def planned(*words, folder, **others):
    """The plan for one rank as JSON, and the printed text."""
    path = folder / "plan.json"
    finished = on_one_cpu("plan", *words, "--ranks", "1", "--no-sync", "--json", path, cwd=folder, **others)
    document = json.loads(path.read_text())
    (configuration,) = document["configurations"]
    return document, configuration, finished


@pytest.mark.mpi_library
def test_a_pilot_predicts_a_run(data, tmp_path):
    """The factor of three allows for a busy machine. `make validate-plan` measures on an idle one, and
    test_plan.py tests pilots of smoothing."""
    (filter,) = [filter for filter in FILTERS if filter.name == "denoise"]
    chosen = ["--filter", shlex.join(filter.words)]
    document, predicted, finished = planned(data, *chosen, "--pilot", "8", folder=tmp_path)
    actual = filter.run(data, tmp_path / "out", prefix=ONE_CPU, ranks=1 if HAS_RANKS else None).report
    assert document["images"] == actual["totals"]["done"] == 40
    off = predicted["elapsed_s"] / actual["elapsed_s"]
    memory = predicted["rss_per_rank_bytes"] / actual["totals"]["max_rss_bytes"]
    told = f"{filter.name}: predicted {off:.2f} of the time and {memory:.2f} of the memory of 40 images"
    assert 1 / 3 < off < 3 and 0.99 < memory < 1.3, (told, finished)
    print(told)


def test_the_filter_with_more_work_is_planned_to_take_longer(data, tmp_path):
    times = {}
    for filter in FILTERS:
        chosen = ["--filter", shlex.join(filter.words), "--from", tmp_path / f"{filter.name}.json"]
        report = tmp_path / f"{filter.name}.json"
        filter.run(data, tmp_path / filter.name, "--limit=10", report=report)
        document, predicted, _ = planned(data, *chosen, folder=tmp_path)
        times[filter.name] = predicted["elapsed_s"]
        if filter.name == "denoise":
            assert document["dominated_by"] == "filter"
        # Measurements of one filter do not apply to another.
        for other in FILTERS:
            if other is not filter:
                words = ["--filter", shlex.join(other.words), "--from", report, "--no-sync"]
                refused = on_one_cpu("plan", data, *words, expect=2)
                assert "measured with other options" in refused.stderr, refused
    assert times["denoise"] > times["median"], times


@pytest.fixture
def masks(data, tmp_path):
    """A mask for each image except one: copies of the images."""
    folder = tmp_path / "masks"
    shutil.copytree(data, folder)
    (folder / "sample_7.nii.gz").unlink()
    return folder


def test_a_plan_with_a_mask_for_each_image(data, masks, tmp_path):
    words = ["--filter", "median --size 3", "--mask", "masks/{dir}/{stem}", "--outside=keep"]
    script = tmp_path / "job.sbatch"
    document, predicted, finished = planned(
        data, *words, "--pilot", "8", "--write", script, "--output", "out", folder=tmp_path
    )
    assert document["images"] == 39 and "1 of 40 images have a header or a mask that" in finished.stdout
    assert f"--mask={tmp_path}/masks/{{dir}}/{{stem}}" in script.read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".niimpi")]
    # The command of the script.
    command = shlex.split(script.read_text().splitlines()[-1].partition("--kill-on-bad-exit=1 ")[2])
    actual = on_one_cpu(*command[1:], expect=1, report_path=tmp_path / "job.report.json").report
    assert (actual["totals"]["done"], actual["totals"]["failed"]) == (39, 1)
    assert 1 / 3 < predicted["elapsed_s"] / actual["elapsed_s"] < 3, (predicted, actual["elapsed_s"])
    # A report of a run with a mask for each image can be used for a plan with one mask for all.
    one = ["--mask", masks / "sample_1.nii.gz", "--outside=keep", "--from", tmp_path / "job.report.json"]
    planned(data, *words[:2], *one, folder=tmp_path)


def test_masks_of_a_pilot_are_those_of_the_list(data, tmp_path):
    """Each mask has the shape of its image, so an image fails with a wrong mask."""
    for number in range(1, 7):
        words = ["synth", tmp_path / "in" / f"sub-{number}", "--count", 1, "--shape", f"{37 + number},44,40"]
        on_one_cpu(*words)
        shutil.copytree(tmp_path / "in" / f"sub-{number}", tmp_path / "masks" / f"sub-{number}")
    words = ["in", "--sigma", "1", "--pilot", "6"]
    document, _, finished = planned(*words, "--mask", "masks/{dir}/{stem}", folder=tmp_path)
    assert document["images"] == 6 and "failed" not in finished.stdout, finished
    refused = on_one_cpu("plan", *words, "--mask", "masks/{index}.nii", expect=2, cwd=tmp_path)
    assert "none of the 6 images" in refused.stderr and "masks/1.nii" in refused.stderr, refused
    for number in range(1, 7):
        mask = tmp_path / "masks" / f"sub-{number}" / "sample_1.nii.gz"
        mask.rename(tmp_path / "masks" / f"{number}.nii.gz")
    refused = on_one_cpu("plan", *words, "--mask", "masks/{index}", expect=2, cwd=tmp_path)
    assert "{index} and {dir} are not in their file names" in refused.stderr, refused


def test_a_study_of_a_filter_with_a_mask_for_each_image(data, masks, tmp_path):
    words = ["--filter", "median --size 3", "--mask", f"{masks}/{{stem}}", "--no-sync", "--sizes", "2,6"]
    words += ["--ranks", "1", "--threads", "1", "--repeat", "1"]
    study = tmp_path / "study"
    finished = on_one_cpu("scaling", data, "--output", study, *words)
    assert "COMPLETED" in (study / "serial.csv").read_text(), finished
    described = [json.loads(path.read_text())["filter"] for path in (study / "reports").glob("*.json")]
    assert len(described) == 2
    assert all(it["name"] == "median" and it["mask"].endswith("{stem}") for it in described)


def test_a_plan_of_images_and_their_noise(tmp_path):
    on_one_cpu("synth", tmp_path / "in", "--count", 6, "--shape", "20,18,16")
    words = ["in", "--filter", "denoise --output-noise '{stem}_noise'", "--output", "out"]
    script = tmp_path / "job.sbatch"
    document, *_ = planned(*words, "--pilot", "6", "--write", script, folder=tmp_path)
    assert document["images"] == 6 and "--output-noise={stem}_noise" in script.read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".niimpi")]
    command = shlex.split(script.read_text().splitlines()[-1].partition("--kill-on-bad-exit=1 ")[2])
    on_one_cpu(*command[1:], report_path=tmp_path / "job.report.json")
    assert len(list((tmp_path / "out").glob("*_noise.nii.gz"))) == 6
    # The name of the noise does not affect the time, its presence does.
    report = ["--from", tmp_path / "job.report.json"]
    other = ["in", "--filter", "denoise --output-noise '{dir}/noise_of_{stem}'"]
    planned(*other, *report, folder=tmp_path)
    refused = on_one_cpu("plan", "in", "--filter", "denoise", *report, "--no-sync", expect=2, cwd=tmp_path)
    assert "measured with other options" in refused.stderr, refused


@pytest.mark.parametrize("command", ["plan", "scaling"])
def test_an_unusable_name_of_the_noise_is_refused_before_anything_runs(data, tmp_path, command):
    words = [data, "--filter", "denoise --output-noise 'elsewhere/{stem}'"]
    words += ["--output", tmp_path / "new" / "out"]
    more = ["--sizes", "1"] if command == "scaling" else []
    refused = on_one_cpu(command, *words, *more, expect=2)
    assert "--output-noise elsewhere/{stem}: gives " in refused.stderr, refused
    assert not (tmp_path / "new").exists()
