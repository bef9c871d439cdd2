"""The images of a run, and the paths of their results."""

import os
import re
import subprocess

import nibabel
import pytest

import images
from program import HAS_RANKS, NIIMPI, environment, run, smooth

pytestmark = pytest.mark.timeout(120)

RANKS = 2 if HAS_RANKS else None
SUBJECTS = [f"sub-0{n}/anat/T1w.nii.gz" for n in (1, 2, 3)]


@pytest.fixture
def study(tmp_path):
    """Three subjects. Commands run in the parent folder."""
    for n, name in enumerate(SUBJECTS):
        (tmp_path / "study" / name).parent.mkdir(parents=True)
        images.series(tmp_path / "made", 1, seed=n)[0].rename(tmp_path / "study" / name)
    return tmp_path


def landed(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.nii.gz"))


def do(place, *words, expect=0, **options):
    finished = run(["smooth", *map(str, words), "--sigma=1", "--no-sync"], cwd=place, **options)
    assert finished.code == expect, finished
    return finished


def test_a_result_lands_where_it_would_without_the_other_inputs(study):
    whole = [study / "study" / name for name in SUBJECTS]
    for kind, lines, options in [
        ("base", whole, ["--base", "study"]),
        ("dot", [f"{study}/study/./{name}" for name in SUBJECTS], []),
    ]:
        for count in (3, 1):
            some = lines[-count:]
            (study / "list.txt").write_text("".join(f"{line}\n" for line in some))
            do(study, "--list", "list.txt", "-o", f"{kind}{count}", *options)
            do(study, *some, "-o", f"{kind}{count}-files", *options)
            for out in (f"{kind}{count}", f"{kind}{count}-files"):
                assert landed(study / out) == SUBJECTS[-count:], out
    do(study, *[f"study/{name}" for name in SUBJECTS[1:]], "-o", "relative")
    assert landed(study / "relative") == [f"study/{name}" for name in SUBJECTS[1:]]
    do(study, "study/sub-02", "-o", "own-base")
    assert landed(study / "own-base") == ["anat/T1w.nii.gz"]


def test_an_earlier_result_under_another_name_is_refused_with_its_base(study):
    do(study, "study", "-o", "out")
    for options in ([], ["--resume"], ["--overwrite"]):
        finished = do(study, "study/sub-03", "-o", "out", *options, expect=2, ranks=RANKS)
        assert f"--base {study}/study" in finished.stderr and landed(study / "out") == SUBJECTS, finished
    do(study, "study/sub-03", "-o", "out", "--base", "study", "--resume")
    do(study, "study/sub-03", "-o", "out", "--name", "wide_{stem}", "--truncate=6")
    assert landed(study / "out") == [*SUBJECTS, "wide_T1w.nii.gz"]


@pytest.mark.parametrize("count", [1, 3])
def test_absolute_paths_without_a_base_are_refused_with_a_proposal(study, count):
    paths = [str(study / "study" / name) for name in SUBJECTS[:count]]
    (study / "list.txt").write_text("".join(f"{path}\n" for path in paths))
    proposal = os.path.commonpath(paths) if count > 1 else os.path.dirname(paths[0])
    for words in (paths, ["--list", "list.txt"], [f"{study}/study/../study/{SUBJECTS[0]}", *paths[1:]]):
        finished = do(study, *words, "-o", "out", expect=2, ranks=RANKS)
        assert f"--base {proposal}" in finished.stderr and not (study / "out").exists(), finished


def test_a_dry_run_lists_inputs_and_outputs(study):
    words = ["--include", "sub-01", "--include", "sub-02", "--exclude", "sub-02", "--dry-run", "--fwhm=4"]
    finished = run(["smooth", "study", "-o", "out", *words], cwd=study, ranks=RANKS)
    assert finished.code == 0 and not (study / "out").exists(), finished
    (line,) = [line for line in finished.stdout.splitlines() if re.match(r"\|.*sub-01", line)]
    # Index in the list, input, output, MiB of the file, voxel size, sigma, MiB of memory.
    cells = line.strip("| ").split()
    assert cells[:3] == ["1", f"study/{SUBJECTS[0]}", f"out/{SUBJECTS[0]}"], finished
    assert cells[4:6] == ["2", "0.849"] and float(cells[6]) >= 0, finished
    assert "sub-02" not in finished.stdout and "sub-03" not in finished.stdout, finished
    for word in ("file size: median", "memory: median", "total", "largest"):
        assert word in finished.stdout, finished


def test_errors_of_a_list_name_the_line(study):
    for lines, said in [
        (["study/a.nii ", ""], 'line 1: "study/a.nii ": .*blank'),
        (["x.nii", "", "study"], "line 3: study: is a folder"),
        (["x.nii", "x.nii.png"], "line 2: x.nii.png: not an image name"),
        (["x.nii", "/y/./../x.nii"], r"line 2: .*\.\."),
        (["x.nii", "x.nii"], "line 2 of the list"),
    ]:
        (study / "list.txt").write_text("\n".join(lines) + "\n")
        finished = do(study, "--list", "list.txt", "-o", "out", expect=2)
        assert re.search(said, finished.stderr), finished


def test_a_folder_that_cannot_be_read_costs_its_images_only(study):
    locked = study / "study" / "lost+found"
    locked.mkdir()
    images.series(locked, 1)
    # Nobody, not even root, can read a folder whose path is too long.
    deep = locked
    script = 'cd "$1" && for i in $(seq 100); do mkdir "$2" && cd -P "$2" || exit 1; done'
    subprocess.run(["bash", "-c", script, "-", deep, "d" * 50], check=True)
    (locked / "sample_1.nii.gz").unlink()
    finished = smooth(study / "study", study / "out", "--sigma=1", ranks=RANKS, expect=1)
    assert landed(study / "out") == SUBJECTS and "cannot be read" in finished.stderr, finished
    assert finished.report["unreadable_folders"] > 0 and finished.report["state"] == "failed", finished
    finished = smooth(study / "study", study / "out2", "--sigma=1", "--exclude=lost+found", ranks=RANKS)
    assert landed(study / "out2") == SUBJECTS and "cannot be read" not in finished.stderr, finished
    assert finished.report["unreadable_folders"] == 0
    subprocess.run(["rm", "-rf", locked], check=True)


def test_a_mixed_pair_is_one_image(study):
    single = images.series(study / "single", 1)[0]


    image = nibabel.load(single)
    nibabel.save(nibabel.Nifti1Pair(image.dataobj, image.affine), study / "x.img.gz")
    subprocess.run(["gunzip", study / "x.hdr.gz"], check=True)
    (study / "pair").mkdir()
    for name in ("x.hdr", "x.img.gz"):
        (study / name).rename(study / "pair" / name)
    finished = smooth(study / "pair", study / "out", "--sigma=1")
    assert finished.report["totals"]["images"] == 1
    smooth(study / "pair", study / "one", "--sigma=1", "--name", "{stem}.nii")
    assert [path.name for path in (study / "one").glob("*.nii")] == ["x.nii"]


def test_other_formats_are_counted(study):
    for name in ("a.mgz", "b.nii.bz2", "c.nii.zst", "d.mgz", "notes.txt"):
        (study / "study" / name).touch()
    finished = do(study, "study", "-o", "out")
    assert all(text in finished.stderr for text in ("4 files", "2 .mgz", "1 .bz2", "1 .zst")), finished


def test_one_width_is_required_and_both_options_are_named(study):
    finished = run(["smooth", "study", "-o", "out"], cwd=study)
    assert finished.code == 2 and "--sigma" in finished.stderr and "--fwhm" in finished.stderr, finished


def test_content_that_is_not_fetched_is_named_and_costs_that_image(study):
    data = study / "study"
    (data / "pointer.nii.gz").write_text("/annex/objects/MD5E-s99--0123.nii.gz\n")
    (data / "lfs.nii.gz").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n")
    (data / "annexed.nii.gz").symlink_to("../.git/annex/objects/cc/dd/K.nii.gz/K.nii.gz")
    finished = smooth(data, study / "out", "--sigma=1", ranks=RANKS, expect=1)
    failed = [row for row in finished.report["images"] if row["status"] == "failed"]
    errors = {os.path.basename(row["input"]): row["error"] for row in failed}
    assert sorted(errors) == ["annexed.nii.gz", "lfs.nii.gz", "pointer.nii.gz"], errors
    for name, command in [("pointer", "datalad get"), ("annexed", "datalad get"), ("lfs", "git lfs pull")]:
        assert command in errors[f"{name}.nii.gz"], errors
    smooth([data / "annexed.nii.gz", data / SUBJECTS[0]], study / "out2", "--sigma=1", expect=1)
    assert landed(study / "out2") == ["T1w.nii.gz"]


def can_mount():
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="mounting is not allowed")
@pytest.mark.parametrize("how", ["--resume", "--overwrite"])
@pytest.mark.parametrize("given", ["folder", "files"])
def test_hard_linked_inputs_are_not_replaced_through_a_bind_mount(study, how, given):
    source, out = study / "in", study / "out"
    names = [path.name for path in images.series(source, 3)]
    (study / "mirror").mkdir()
    out.mkdir()
    for name in names:
        os.link(source / name, study / "mirror" / name)
    before = {name: (source / name).read_bytes() for name in names}
    inputs = [str(source)] if given == "folder" else [f"{source}/./{name}" for name in names]
    finished = mounted(source, out, [*inputs, "--output", out, "--sigma=1", how, "--no-sync"])
    refused = re.search("would be overwritten|lies inside", finished.stderr)
    assert finished.returncode == 2 and refused, finished
    assert {name: (source / name).read_bytes() for name in names} == before


@pytest.mark.skipif(not can_mount(), reason="mounting is not allowed")
def test_results_in_a_folder_that_is_mounted_into_the_input_are_refused(study):
    (study / "study" / "mounted").mkdir()
    (study / "out").mkdir()
    words = [study / "study", "--output", study / "out" / "smooth", "--sigma=1"]
    finished = mounted(study / "out", study / "study" / "mounted", words)
    assert finished.returncode == 2 and "lies inside the input folder" in finished.stderr, finished
    finished = mounted(study / "out", study / "study" / "mounted", [*words, "--exclude=mounted"])
    assert finished.returncode == 0, finished


def mounted(folder, at, words):
    """Runs `niimpi smooth` while a folder is also mounted at a second place."""
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    command = ["unshare", "--mount", "bash", "-c", script, "-", folder, at, NIIMPI, "smooth", *words]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
