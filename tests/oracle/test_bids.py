"""BIDS datasets: which images are selected, where results land, and what is refused before anything is
written."""

import json
import os
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

import images
from program import HAS_RANKS, run

pytestmark = pytest.mark.timeout(180)

RANKS = 2 if HAS_RANKS else None


def describe(folder, kind, **more):
    folder.mkdir(parents=True, exist_ok=True)
    text = {"Name": "Made for a test", "BIDSVersion": "1.11.1", "DatasetType": kind, **more}
    (folder / "dataset_description.json").write_text(json.dumps(text))


def write_json(path, **content):
    path.write_text(json.dumps(content))


def image(path, shape=(8, 9, 7), seed=0):
    array = np.random.default_rng(seed).integers(0, 200, shape, dtype=np.int16)
    return images.write(path, array, zooms=(2, 2, 2, 1.5)[: len(shape)], affine=images.diagonal(2, 2, 2))


@pytest.fixture
def raw(tmp_path):
    """A raw dataset with sessions, and folders that belong to no image."""
    root = tmp_path / "raw"
    describe(root, "raw")
    for subject in ("01", "02"):
        for session in ("pre", "post"):
            stem = f"sub-{subject}_ses-{session}"
            folder = root / f"sub-{subject}" / f"ses-{session}"
            image(folder / "anat" / f"{stem}_T1w.nii.gz", seed=1)
            for n in (1, 2):
                image(folder / "func" / f"{stem}_task-rest_run-0{n}_bold.nii.gz", (6, 5, 7, 3), seed=n)
            image(folder / "dwi" / f"{stem}_dwi.nii.gz", (6, 5, 7, 3))
    image(root / "sub-02" / "ses-pre" / "func" / "sub-02_ses-pre_task-nback_bold.nii.gz", (6, 5, 7, 3))
    left_out = ("sourcedata", "code", ".git", "sub-01/ses-pre/anat/x.bids", "derivatives/old/sub-01/anat")
    for folder in left_out:
        image(root / folder / "sub-01_T1w.nii.gz")
    return root


@pytest.fixture
def derivative(tmp_path):
    """A derivative as fMRIPrep writes it."""
    root = tmp_path / "study" / "derivatives" / "fmriprep"
    describe(tmp_path / "study", "raw")
    describe(root, "derivative", GeneratedBy=[{"Name": "fMRIPrep", "Version": "25.1.0"}])
    func, anat = root / "sub-01" / "func", root / "sub-01" / "anat"
    for task in ("rest", "nback"):
        stem = f"sub-01_task-{task}"
        for space in ("", "_space-MNI152NLin2009cAsym_res-2"):
            image(func / f"{stem}{space}_desc-preproc_bold.nii.gz", (6, 5, 7, 3))
            image(func / f"{stem}{space}_desc-brain_mask.nii.gz", (6, 5, 7))
        image(func / f"{stem}_space-MNI152NLin2009cAsym_res-2_boldref.nii.gz", (6, 5, 7))
        image(func / f"{stem}_space-fsLR_den-91k_bold.dtseries.nii", (6, 5, 7))
    image(anat / "sub-01_desc-preproc_T1w.nii.gz")
    for path in [*func.glob("*_bold*.nii.gz"), *anat.glob("*_T1w.nii.gz")]:
        content = {"SkullStripped": False, "RepetitionTime": 1.5, "TaskName": "rest", "Resolution": "2 mm"}
        write_json(path.with_name(path.name.replace(".nii.gz", ".json")), **content)
    image(anat / "sub-01_dseg.nii.gz")
    image(anat / "sub-01_label-GM_probseg.nii.gz")
    image(root / "sourcedata" / "freesurfer" / "sub-01" / "mri" / "T1.nii.gz")
    return root


def smooth(dataset, output, *options, expect=0, width=("--fwhm=4.7",), ranks=None):
    words = ["smooth", dataset, "--bids", "--output", output, *width, "--threads=1", "--no-sync", *options]
    finished = run([str(word) for word in words], ranks)
    assert finished.code == expect, finished
    return finished


def landed(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("sub-*.nii*"))


def test_results_of_a_raw_dataset_are_named_and_placed_by_the_specification(raw, tmp_path):
    out = raw / "derivatives" / "niimpi"
    for _ in range(2):  # results below derivatives are never inputs
        finished = smooth(raw, out, "--fwhm=6", "--suffix", "bold", "--resume", width=(), ranks=RANKS)
    stem = "sub-02/ses-pre/func/sub-02_ses-pre_task-nback_desc-sm6_bold.nii.gz"
    expected = [
        f"sub-{sub}/ses-{ses}/func/sub-{sub}_ses-{ses}_task-rest_run-0{n}_desc-sm6_bold.nii.gz"
        for sub in ("01", "02")
        for ses in ("pre", "post")
        for n in (1, 2)
    ]
    assert landed(out) == sorted([*expected, stem])
    assert "resume: 9 kept" in finished.stderr, finished
    # All images: neither sourcedata, code, .git, *.bids nor derivatives.
    smooth(raw, tmp_path / "all", width=["--fwhm=4.5"])
    names = landed(tmp_path / "all")
    assert len(names) == 17 and all("_desc-sm4p5_" in name for name in names)


def test_the_voxels_are_those_of_the_image(raw, tmp_path):
    one = ["--participant-label=sub-01", "--session=pre", "--suffix=T1w"]
    smooth(raw, tmp_path / "out", *one, "--desc-out=x", width=["--sigma=1"])
    source = nibabel.load(raw / "sub-01/ses-pre/anat/sub-01_ses-pre_T1w.nii.gz")
    result = nibabel.load(tmp_path / "out/sub-01/ses-pre/anat/sub-01_ses-pre_desc-x_T1w.nii.gz")
    expected = ndimage.gaussian_filter(np.asarray(source.dataobj), 1)
    assert np.array_equal(np.asarray(result.dataobj), expected)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ("--participant-label 01", 8),
        ("--participant-label sub-01 02 --session ses-post", 8),
        ("--participant-label 01,02 --datatype anat", 4),
        ("--task rest", 8),
        ("--task rest nback", 9),
        ("--run 1 --suffix bold", 4),
        ("--run 01 2", 8),
        ("--suffix dwi T1w --exclude sub-02", 4),
        ("--include *_run-02_*", 4),
    ],
)
def test_options_select_together(raw, tmp_path, options, count):
    finished = smooth(raw, tmp_path / "out", "--dry-run", *options.split())
    assert finished.stdout.count("_desc-sm") == count, finished


def test_a_derivative_keeps_its_entities_and_leaves_out_masks(derivative, tmp_path):
    finished = smooth(derivative, tmp_path / "out", "--fwhm=6", width=())
    names = {name.rsplit("/", 1)[1] for name in landed(tmp_path / "out")}
    bold = {
        f"sub-01_task-{task}{space}_desc-sm6_bold.nii.gz"
        for task in ("rest", "nback")
        for space in ("", "_space-MNI152NLin2009cAsym_res-2")
    }
    space = "space-MNI152NLin2009cAsym_res-2"
    reference = {f"sub-01_task-{task}_{space}_desc-sm6_boldref.nii.gz" for task in ("rest", "nback")}
    others = {"sub-01_desc-sm6_T1w.nii.gz", "sub-01_label-GM_desc-sm6_probseg.nii.gz"}
    assert names == bold | reference | others
    assert "left out 2 images without a BIDS name" in finished.stderr, finished
    assert "left out 5 images of labels (mask, dseg, defacemask)" in finished.stderr, finished
    one = ["--desc=preproc", "--task=rest", "--exclude=*_space-*", "--suffix=bold"]
    native = smooth(derivative, tmp_path / "native", *one)
    assert len(landed(tmp_path / "native")) == 1, native
    smooth(derivative, tmp_path / "mni", "--space=MNI152NLin2009cAsym", "--suffix=bold")
    assert len(landed(tmp_path / "mni")) == 2


@pytest.mark.parametrize(
    ("command", "label"),
    [
        (["smooth", "--fwhm=6.0"], "sm6"),
        (["smooth", "--fwhm=6,6,6"], "sm6"),
        (["smooth", "--fwhm=0.25"], "sm0p25"),
        (["smooth", "--fwhm=6", "--like=nilearn"], "sm6"),
        (["smooth", "--sigma=2", "--desc-out=smoothed"], "smoothed"),
        (["median", "--size=3"], "median"),
        (["denoise", "--method=nlm"], "denoised"),
        (["denoise", "--desc-out=desc-x"], "x"),
    ],
)
def test_results_are_described_by_their_filter(raw, tmp_path, command, label):
    words = [*command, str(raw), "--bids", "--output", str(tmp_path / "out"), "--dry-run", "--suffix=T1w"]
    finished = run(words)
    assert finished.code == 0, finished
    assert f"sub-01_ses-pre_desc-{label}_T1w.nii.gz" in finished.stdout, finished


def test_removed_noise_has_a_label(raw, tmp_path):
    words = ["denoise", str(raw), "--bids", "--output", str(tmp_path / "out"), "--suffix=T1w", "--no-sync"]
    finished = run([*words, "--output-noise=desc-noise", "--participant-label=01", "--session=pre"])
    assert finished.code == 0, finished
    stem = "sub-01/ses-pre/anat/sub-01_ses-pre_desc"
    assert landed(tmp_path / "out") == [f"{stem}-denoised_T1w.nii.gz", f"{stem}-noise_T1w.nii.gz"]
    own, noise = (json_of(tmp_path / "out" / f"{stem}-{label}_T1w.json") for label in ("denoised", "noise"))
    assert "noise that was removed" in noise.pop("Description") and own == noise
    verified = run(["verify", str(tmp_path / "out"), "--against", "journal"])
    assert verified.code == 0 and "1" in verified.stdout, verified
    refused = run([*words, "--output-noise={dir}/{stem}_noise"])
    assert refused.code == 2 and "such as desc-noise" in refused.stderr, refused


def test_what_bidsignore_names_is_left_out(raw, tmp_path):
    (raw / ".bidsignore").write_text("# not ready\nses-post/\n*_run-02_*\n!*task-nback*\nsub-02/**/*_dwi.*\n")
    image(raw / "tpl-own" / "anat" / "tpl-own_T1w.nii.gz")
    finished = smooth(raw, tmp_path / "out", "--dry-run")
    assert finished.stdout.count("_desc-sm") == 6, finished
    assert "left out 5 images or folders that .bidsignore names" in finished.stderr, finished
    assert "left out 1 folder of templates, which belong to no participant" in finished.stderr, finished
    assert "tpl-own" not in finished.stdout, finished
    (raw / ".bidsignore").unlink()
    assert smooth(raw, tmp_path / "out", "--dry-run").stdout.count("_desc-sm") == 17


def with_file(name):
    return lambda root: image(root / "sub-01" / "ses-pre" / name)


def without_description(root):
    (root / "dataset_description.json").unlink()


PLAIN = lambda root: None  # noqa: E731

REFUSED = [
    (PLAIN, ["--participant-label", "09"], "--participant-label 09: no image has this label"),
    (PLAIN, ["--task", "rest", "resting"], "--task resting: no image has this label; there are nback, rest"),
    (PLAIN, ["--task=nback", "--participant-label=01,02"], "--participant-label 01: the other options"),
    (PLAIN, ["--suffix=T1w", "--desc=preproc"], "--desc preproc: no image has this label"),
    (PLAIN, ["--fwhm=6,6,4"], "--desc-out"),
    (PLAIN, ["--sigma=1"], "--desc-out"),
    (PLAIN, ["--fwhm=6", "--base=."], "cannot be used with"),
    (PLAIN, ["--fwhm=6", "--desc-out=a_b"], "a label has only letters, digits"),
    (without_description, [], "is not the root of a BIDS dataset"),
    (with_file("anat/sub-02_ses-pre_T1w.nii.gz"), [], "the name has sub-02, the folders have sub-01"),
    (with_file("anat/sub-01_T1w.nii.gz"), [], "the name has no ses-"),
    (with_file("anat/sub-01_ses-pre_run-1_run-2_T1w.nii"), [], "has both run-1 and run-2"),
    (with_file("anat/sub-01_ses-pre_T1w.nii"), [], "two inputs for one output"),
    (with_file("anat/sub-01_ses-pre_desc-preproc_T1w.nii"), [], "two inputs for one output"),
    (with_file("func/sub-01_ses-pre_run-01_task-rest_bold.nii.gz"), [], "two inputs for one output"),
    (with_file("anat/sub-01_ses-pre_desc-other_T1w.nii"), [], "already has desc-other"),
]


@pytest.mark.parametrize(("change", "options", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_not_clear_is_refused_before_anything_is_written(raw, tmp_path, change, options, message):
    change(raw)
    before = images.tree(raw)
    width = () if any(option.startswith(("--fwhm", "--sigma")) for option in options) else ["--fwhm=6"]
    finished = smooth(raw, tmp_path / "out", *options, expect=2, width=width, ranks=RANKS)
    assert message in finished.stderr, finished
    assert not (tmp_path / "out").exists() and images.tree(raw) == before


def test_results_in_a_dataset_belong_below_derivatives(raw, derivative):
    for output in (raw, raw / "sub-01" / "out", raw / "results"):
        finished = smooth(raw, output, expect=2)
        assert "such as derivatives/niimpi" in finished.stderr, finished
    study = derivative.parents[1]
    finished = smooth(derivative.parent, study / "out", expect=2)
    assert "derivatives/fmriprep is one" in finished.stderr, finished
    smooth(derivative, derivative.parent / "niimpi", "--suffix=T1w")
    assert landed(derivative.parent / "niimpi") == ["sub-01/anat/sub-01_desc-sm4p7_T1w.nii.gz"]


@pytest.fixture
def datalad(tmp_path):
    """A dataset as DataLad makes it: links into .git/annex, one of which was not fetched, and links that
    leave the dataset."""
    root = tmp_path / "datalad"
    describe(root, "raw")
    for subject in ("01", "02", "03"):
        folder = root / f"sub-{subject}" / "anat"
        folder.mkdir(parents=True)
        key = root / ".git" / "annex" / "objects" / subject / "MD5E" / "MD5E.nii.gz"
        if subject != "02":
            image(key, seed=int(subject))
        (folder / f"sub-{subject}_T1w.nii.gz").symlink_to(os.path.relpath(key, folder))
    image(tmp_path / "elsewhere" / "sub-04" / "anat" / "sub-04_T1w.nii.gz")
    (root / "sub-04").symlink_to(tmp_path / "elsewhere" / "sub-04")
    outside = tmp_path / "elsewhere" / "sub-04" / "anat" / "sub-04_T1w.nii.gz"
    (root / "sub-03" / "anat" / "sub-03_T2w.nii.gz").symlink_to(outside)
    return root


def test_annexed_content_is_read_and_links_out_of_the_dataset_are_not(datalad, tmp_path):
    finished = smooth(datalad, tmp_path / "out", "--fwhm=6", width=(), expect=1, ranks=RANKS)
    assert "sub-02_T1w.nii.gz" in finished.stderr and "datalad get" in finished.stderr, finished
    assert "left out 1 link to image files outside the dataset" in finished.stderr, finished
    assert "did not follow 1 link to folders outside the input" in finished.stderr, finished
    names = [f"sub-{n}/anat/sub-{n}_desc-sm6_T1w.nii.gz" for n in ("01", "03")]
    assert landed(tmp_path / "out") == names
    followed = smooth(datalad, tmp_path / "all", "--follow-links", "--fwhm=6", width=(), expect=1)
    assert len(landed(tmp_path / "all")) == 4, followed


@pytest.fixture
def described(raw):
    """The raw dataset with metadata at several levels."""
    write_json(raw / "task-rest_bold.json", TaskName="rest", RepetitionTime=1.5, EchoTime=0.02)
    write_json(raw / "task-nback_bold.json", TaskName="nback", RepetitionTime=1.5)
    write_json(raw / "T1w.json", MagneticFieldStrength=3)
    subject = raw / "sub-01"
    write_json(subject / "sub-01_task-rest_bold.json", EchoTime=0.03, FlipAngle=70)
    folder = subject / "ses-pre" / "func"
    write_json(folder / "sub-01_ses-pre_task-rest_run-02_bold.json", FlipAngle=80)
    (raw / "dwi.bval").write_text("0 1000 1000\n")
    for bvec in raw.glob("sub-*/ses-*/dwi/*_dwi.nii.gz"):
        bvec.with_name(bvec.name.replace(".nii.gz", ".bvec")).write_text("0 1 0\n0 0 1\n0 0 0\n")
    return raw


def json_of(path):
    return json.loads(path.read_text())


def test_results_have_inherited_metadata(described, tmp_path):
    out = tmp_path / "out"
    smooth(described, out, "--participant-label=01", "--session=pre", "--fwhm=6", width=(), ranks=RANKS)
    stem = out / "sub-01" / "ses-pre" / "func" / "sub-01_ses-pre_task-rest_run-02_desc-sm6_bold"
    found = json_of(stem.with_name(f"{stem.name}.json"))
    options = found.pop("NiimpiOptions")
    assert options["filter"]["fwhm"] == 6 and options["filter"]["name"] == "gaussian"
    assert found.pop("NiimpiVersion")
    image_path = "sub-01/ses-pre/func/sub-01_ses-pre_task-rest_run-02_bold.nii.gz"
    assert found == {
        "TaskName": "rest",
        "RepetitionTime": 1.5,
        "EchoTime": 0.03,
        "FlipAngle": 80,
        "SkullStripped": False,
        "Sources": [f"bids:source:{image_path}"],
    }
    stem = out / "sub-01" / "ses-pre" / "dwi" / "sub-01_ses-pre_desc-sm6_dwi"
    assert stem.with_name(f"{stem.name}.bval").read_text() == "0 1000 1000\n"
    assert stem.with_name(f"{stem.name}.bvec").read_text().count("\n") == 3
    description = json_of(out / "dataset_description.json")
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "niimpi"
    assert description["SourceDatasets"] == [{"URL": f"file://{described}"}]
    assert description["DatasetLinks"] == {"source": f"file://{described}"}
    shared = tmp_path / "shared"
    chosen = ["--participant-label=01", "--session=pre", "--fwhm=6", "--split=always"]
    smooth(described, shared, *chosen, width=(), ranks=RANKS)
    files = [path.relative_to(out) for path in (out / "sub-01").rglob("*") if path.is_file()]
    assert len(files) > 8
    assert all((shared / name).read_bytes() == (out / name).read_bytes() for name in files)


def test_all_files_of_a_result_are_one_outcome(described, tmp_path):
    out = tmp_path / "out"
    chosen = ["--participant-label=01", "--session=pre", "--suffix", "dwi", "--resume"]
    smooth(described, out, *chosen)
    (out / "dataset_description.json").write_text("{}")
    stem = "sub-01/ses-pre/dwi/sub-01_ses-pre_desc-sm4p7_dwi"
    files = {suffix: out / f"{stem}{suffix}" for suffix in (".nii.gz", ".json", ".bval", ".bvec")}
    before = {suffix: path.read_bytes() for suffix, path in files.items()}
    assert "resume: 1 kept" in smooth(described, out, *chosen).stderr
    assert run(["verify", str(out), "--against", "journal"]).code == 0
    for suffix, path in files.items():
        path.unlink()
        assert run(["verify", str(out), "--against", "journal"]).code == 1, suffix
        finished = smooth(described, out, *chosen)
        assert "resume: 0 kept, 1 to do" in finished.stderr, finished
        assert {suffix: path.read_bytes() for suffix, path in files.items()} == before
    files[".json"].write_text("{}")
    verified = run(["verify", str(out), "--against", "journal"])
    assert verified.code == 1 and "recorded" in verified.stdout, verified
    refused = smooth(described, out, *chosen, expect=2)
    assert "changed since niimpi wrote them" in refused.stderr, refused
    smooth(described, out, *chosen, "--overwrite")
    assert files[".json"].read_bytes() == before[".json"]
    assert (out / "dataset_description.json").read_text() == "{}", "never replaced"
    # A file under the name of metadata is not replaced either.
    other = tmp_path / "other"
    (other / stem).parent.mkdir(parents=True)
    (other / f"{stem}.json").write_text("{}")
    finished = smooth(described, other, *chosen[:-1], expect=2)
    assert "exist" in finished.stderr, finished


def test_metadata_that_cannot_be_read_fail_the_image(described, tmp_path):
    (described / "sub-01" / "sub-01_task-rest_bold.json").write_text("{]")
    (described / "T1w.json").unlink()
    (described / "T1w.json").symlink_to(".git/annex/objects/absent")
    chosen = ["--participant-label=01", "--session=pre", "--suffix", "bold", "T1w", "dwi"]
    finished = smooth(described, tmp_path / "out", *chosen, expect=1)
    assert "sub-01_task-rest_bold.json: metadata that is not JSON" in finished.stderr, finished
    assert "T1w.json: metadata that cannot be read" in finished.stderr, finished
    assert landed(tmp_path / "out") == ["sub-01/ses-pre/dwi/sub-01_ses-pre_desc-sm4p7_dwi.nii.gz"]


def test_resuming_notices_changed_metadata(described, tmp_path):
    out = tmp_path / "out"
    chosen = ["--participant-label=01", "--session=pre", "--suffix", "bold", "dwi", "--resume"]
    smooth(described, out, *chosen, ranks=RANKS)
    result = out / "sub-01/ses-pre/func/sub-01_ses-pre_task-rest_run-01_desc-sm4p7_bold.json"

    def resumed(counts):
        finished = smooth(described, out, *chosen, ranks=RANKS)
        assert f"resume: {counts}" in finished.stderr, finished

    resumed("3 kept, 0 to do")
    # Run 2 has a flip angle of its own, and b-values are not inherited from this file.
    metadata = described / "sub-01/sub-01_task-rest_bold.json"
    write_json(metadata, EchoTime=0.03, FlipAngle=75)
    resumed("2 kept, 1 to do: 1 with a changed input")
    assert json_of(result)["FlipAngle"] == 75
    resumed("3 kept, 0 to do")
    (described / "dwi.bval").write_text("0 2000 2000\n")
    resumed("2 kept, 1 to do: 1 with a changed input")
    assert (out / "sub-01/ses-pre/dwi/sub-01_ses-pre_desc-sm4p7_dwi.bval").read_text() == "0 2000 2000\n"
    # Another layout of the same values is no change, and unreadable metadata are no reason to lose results.
    metadata.write_text('{"FlipAngle": 75,\n  "EchoTime": 0.03}')
    resumed("3 kept, 0 to do")
    metadata.write_text("{]")
    resumed("3 kept, 0 to do")


def test_a_dataset_that_cannot_be_described_is_not_a_success(raw, tmp_path):
    out = tmp_path / "out"
    (out / "dataset_description.json").mkdir(parents=True)
    finished = smooth(raw, out, "--suffix=T1w", expect=1, ranks=RANKS)
    assert "dataset_description.json cannot be written" in finished.stderr, finished
    assert len(landed(out)) == 4
    (out / "dataset_description.json").rmdir()
    smooth(raw, out, "--suffix=T1w", "--resume", ranks=RANKS)
    assert json_of(out / "dataset_description.json")["DatasetType"] == "derivative"


def test_the_call_of_a_bids_app(raw, tmp_path):
    out = tmp_path / "out"
    words = [str(raw), str(out), "participant", "--participant_label", "01", "--session", "pre"]
    finished = run([*words, "--fwhm=6", "--suffix=T1w", "--no-sync"], RANKS)
    assert finished.code == 0, finished
    assert landed(out) == ["sub-01/ses-pre/anat/sub-01_ses-pre_desc-sm6_T1w.nii.gz"]
    words = [str(raw), str(out), "participant", "--filter", "median", "--suffix=T1w", "--run=1"]
    assert run(words).code == 2
    refused = run([str(raw), str(out), "group", "--fwhm=6"])
    assert refused.code == 2 and "no group level" in refused.stderr, refused


VALIDATOR = Path(__file__).resolve().parents[2] / ".venv-bids" / "bin" / "bids-validator-deno"


def errors_of_validator(folder):
    """The errors and the number of files that the validator saw. It needs no network."""
    finished = subprocess.run(
        [VALIDATOR, "--json", folder], capture_output=True, text=True, timeout=120, check=False
    )
    found = json.loads(finished.stdout)
    issues = found["issues"]["issues"]
    return [issue for issue in issues if issue["severity"] == "error"], found["summary"]["totalFiles"]


@pytest.mark.skipif(not VALIDATOR.exists(), reason=f"{VALIDATOR} is missing: .ci/install bids")
def test_the_validator_accepts_the_results(described, derivative, datalad, tmp_path):
    for dataset, code in [(described, 0), (derivative, 0), (datalad, 1)]:
        out = tmp_path / f"results of {dataset.name}"
        # fMRIPrep's boldref is not in the specification, so its validator does not know it.
        smooth(dataset, out, "--fwhm=6", "--exclude=*_boldref.nii.gz", width=(), expect=code)
        errors, files = errors_of_validator(out)
        # Its schema has no rule for b-values and directions of images with a desc.
        diffusion = [error for error in errors if error["location"].endswith(("_dwi.bval", "_dwi.bvec"))]
        assert errors == diffusion and files > 4, errors
        assert len(diffusion) == (8 if dataset == described else 0)
    # It does find errors, for example in results without their metadata.
    for path in out.rglob("*_T1w.json"):
        path.unlink()
    assert {error["code"] for error in errors_of_validator(out)[0]} == {"SIDECAR_KEY_REQUIRED"}
