"""BIDS datasets in `niimpi plan` and `niimpi scaling`: the selection, and the commands that they write."""

import json
import shlex

import numpy as np
import pytest

import images
from program import run

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def dataset(tmp_path):
    """Six participants, each with a T1w and a brain mask."""
    root = tmp_path / "study"
    for n in range(1, 7):
        array = np.random.default_rng(n).integers(0, 200, (20, 22, 18), dtype=np.int16)
        for end in ("T1w", "desc-brain_mask"):
            images.write(root / f"sub-0{n}" / "anat" / f"sub-0{n}_{end}.nii.gz", array)
    description = {"Name": "Made for a test", "BIDSVersion": "1.11.1", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    return root


SELECTION = ["--bids", "--participant-label", "01", "02", "03", "04,sub-05", "--suffix=T1w", "--desc-out=x"]


def test_a_plan_selects_as_the_job_does(dataset, tmp_path):
    words = ["plan", str(dataset), "--fwhm=4", *SELECTION, "--output=out", "--write=job.sbatch", "--no-sync"]
    finished = run([*words, "--cpus-per-node=1"], timeout=120, cwd=tmp_path)
    assert finished.code == 0, finished
    assert "5 images planned for, 5 measured" in finished.stdout, finished
    script = (tmp_path / "job.sbatch").read_text()
    command = next(line for line in script.replace("\\\n", " ").splitlines() if "--desc-out=x" in line)
    command = shlex.split(command)
    ran = run(command[command.index("smooth") :], timeout=60, cwd=tmp_path)
    assert ran.code == 0, ran
    results = sorted(path.name for path in (tmp_path / "out").rglob("sub-*.nii.gz"))
    assert results == [f"sub-0{n}_desc-x_T1w.nii.gz" for n in range(1, 6)]
    refused = run(["plan", str(dataset), "--fwhm=4", "--bids", "--task=rest"], cwd=tmp_path)
    assert refused.code == 2 and "--task rest: no image has this label" in refused.stderr, refused
    refused = run(["plan", str(dataset), "--fwhm=4", "--bids", "--name={stem}"], cwd=tmp_path)
    assert refused.code == 2 and "cannot be used with" in refused.stderr, refused


def test_a_study_selects_as_its_runs_do(dataset, tmp_path):
    words = ["scaling", str(dataset), "--fwhm=4", *SELECTION, "--output=study.out", "--no-sync", "--keep"]
    words += ["--sizes=5", "--ranks=1", "--threads=1", "--repeat=1"]
    finished = run(words, timeout=120, cwd=tmp_path)
    assert finished.code == 0, finished
    results = sorted(path.name for path in (tmp_path / "study.out").rglob("sub-*.nii.gz"))
    assert results == [f"sub-0{n}_desc-x_T1w.nii.gz" for n in range(1, 6)]
    refused = run([*words, "--sizes=6"], cwd=tmp_path)
    assert refused.code == 2 and "there are only 5 images" in refused.stderr, refused
