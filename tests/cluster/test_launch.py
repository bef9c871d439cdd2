"""Wrong launches: niimpi refuses or warns before anything is written, and prints what to do."""

import re

import pytest

from jobs import MPI, sums, synth

SMOOTH = ["niimpi", "smooth", "{data}", "--output", "out", "--sigma=2"]


def smooth(data, *options):
    return [word.format(data=data) for word in SMOOTH] + list(options)


@pytest.mark.mpich
@pytest.mark.parametrize("tasks", [6, 1])
def test_srun_without_an_interface_to_mpi(user, data, tasks):
    """With --mpi=none every process would be alone. One prints a short message, and none writes anything."""
    if MPI == "mpich" and tasks == 1:
        pytest.skip("one rank of MPICH needs nobody to find")
    finished = user.run("srun", "--mpi=none", f"--ntasks={tasks}", *smooth(data), check=False)
    assert finished.returncode == 2, finished
    assert "srun --mpi=list" in finished.stderr and f"{tasks} " in finished.stderr
    assert finished.stderr.count("niimpi: error:") == 1
    mine = [line for line in finished.stderr.splitlines() if not line.startswith("srun:")]
    assert len(mine) == 2, finished.stderr
    assert not (user.folder / "out").exists()


def test_srun_with_an_interface_that_this_mpi_does_not_speak(user, data):
    """--mpi=pmi2 with an Open MPI that does not support it: niimpi's message comes before the library's."""
    finished = user.run("srun", "--mpi=pmi2", "--ntasks=2", *smooth(data), check=False)
    assert finished.returncode != 0
    assert "start it with `srun --mpi=pmix`" in finished.stderr
    assert not (user.folder / "out").exists()


def test_a_launcher_that_knows_another_mpi(user, data):
    """This cluster's default is no interface, so srun without --mpi is the wrong launcher."""
    finished = user.run("srun", "--ntasks=2", *smooth(data), check=False, SLURM_MPI_TYPE="none")
    assert finished.returncode == 2 and "Nothing was written" in finished.stderr
    assert not (user.folder / "out").exists()


def test_a_script_that_forgot_srun_is_warned(user, data):
    user.script(
        "forgot.sbatch",
        "#SBATCH --nodes=2 --ntasks-per-node=2 --output=logs/%x-%j.out",
        " ".join(smooth(data)),
    )
    job = user.submit("forgot.sbatch").ends("COMPLETED")
    warnings = [line for line in job.output().splitlines() if "without srun" in line]
    assert len(warnings) == 1 and "4 tasks on 2 nodes" in warnings[0] and "`srun --mpi=pmix`" in warnings[0]
    assert len(sums(user.folder / "out")) == 60


@pytest.mark.parametrize("asked", ["#SBATCH --mem-per-cpu=64M", "#SBATCH --mem=128M"])
def test_a_request_that_cannot_hold_the_largest_image(user, asked):
    """There is one image of 100 MiB among small ones, and ranks may not share it. The proposed line makes
    room for it."""
    folder = synth(user.folder / "in", 2, "--shape", "20,20,20")
    synth(user.folder / "in" / "large", 1, "--shape", "300,300,300", "--datatype", "float32")
    words = ["--nodes=1", "--ntasks=2"]
    chosen = "smooth --sigma 2 --split never"
    user.edit("mpi.sbatch", "#SBATCH --mem-per-cpu=1G", asked)
    job = user.submit("mpi.sbatch", *words, DATA=folder, FILTER=chosen).ends("FAILED", "2:0")
    # 103 MiB of voxels, plus the memory of a thread to filter them.
    assert re.search(r"large/sample_1.nii.gz: the largest image needs 10[3-5] MiB of memory", job.output())
    assert job.output().count("the largest image needs") == 1, "only rank 0 may print the message"
    assert not (user.folder / "out").exists()
    (advised,) = re.findall(r"Request more: (.*)", job.output())
    assert advised.startswith(asked.rpartition("=")[0] + "=")
    user.edit("mpi.sbatch", asked, advised)
    user.submit("mpi.sbatch", *words, DATA=folder, FILTER=chosen).ends("COMPLETED")
    assert len(sums(user.folder / "out")) == 3


def test_no_program_on_the_path(user, data):
    """The most common mistake: exit code and message show that the program was not found."""
    job = user.submit("serial.sbatch", DATA=data, PATH="/usr/bin:/bin")
    job.ends("FAILED", "2:0")
    assert "niimpi" in job.output() and "No such file" in job.output()
