"""Submits every script of slurm/ unchanged: it completes, uses what it requested, and its results equal those
of one process."""

import json
import os
import re
import shutil

import pytest

from jobs import MPI, SCRIPTS, filter_here, sums, synth

pytestmark = pytest.mark.timeout(180)
CPUS_HERE = len(os.sched_getaffinity(0))


def check(job, user, expected, ranks, threads, hosts):
    """Checks the results and the report of a job that processed all sixty images."""
    job.ends("COMPLETED")
    assert len(expected) == 60
    assert sums(user.folder / "out") == expected
    report = job.report()
    assert report["state"] == "completed"
    assert report["totals"]["done"] == report["totals"]["images"] == 60
    assert (report["launch"]["ranks"], report["launch"]["threads_per_rank"]) == (ranks, threads)
    assert len(report["launch"]["nodes"]) == hosts and set(report["launch"]["nodes"]) <= {"n1", "n2", "n3"}
    assert report["launch"]["slurm"]["job_id"] == job.number
    return report


@pytest.mark.mpich
def test_mpi_over_three_nodes(user, data, expected):
    """Two ranks on each of three nodes. They use TCP between nodes and shared memory within a node."""
    # Makes Open MPI print the connection to each other rank.
    traffic = {"OMPI_MCA_btl_base_verbose": 30, "OMPI_MCA_bml_base_verbose": 30}
    job = user.submit("mpi.sbatch", DATA=data, **traffic)
    report = check(job, user, expected, ranks=6, threads=1, hosts=3)
    hosts = [rank["host"] for rank in report["ranks"]]
    assert hosts == ["n1", "n1", "n2", "n2", "n3", "n3"]
    assert all(rank["images"] > 0 for rank in report["ranks"])
    if MPI == "openmpi":
        ways = re.findall(
            r"\[(n\d):\d+\] mca: bml: Using (\w+) btl for send to \S+ on node (n\d)", job.output()
        )
        between = {way for here, way, there in ways if here != there}
        within = {way for here, way, there in ways if here == there} - {"self"}
        assert (between, within) == ({"tcp"}, {"vader"})


@pytest.mark.mpich
def test_ranks_on_three_nodes_share_an_image(user):
    """Fewer images than ranks: the ranks read and filter slabs, and rank 0 writes one file. A cheaper filter
    would not make that worth while."""
    folder = synth(user.folder / "in", 1, "--shape", "160,160,180", "--datatype", "float32")
    job = user.submit("mpi.sbatch", DATA=folder, FILTER="denoise").ends("COMPLETED")
    report = job.report()
    assert report["launch"]["nodes"] == ["n1", "n2", "n3"]
    (image,) = report["images"]
    assert [sharer["rank"] for sharer in image["shared"]] == list(range(6))
    whole = filter_here(folder, user.folder / "expected", "denoise")
    assert sums(user.folder / "out") == whole


@pytest.mark.mpich
def test_mpirun_inside_a_batch_script(user, data, expected):
    """For clusters whose srun does not support the MPI library: mpirun gets the nodes from Slurm and needs no
    ssh."""
    root = ["export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"] if os.geteuid() == 0 else []
    user.script(
        "mpirun.sbatch",
        "#SBATCH --nodes=3 --ntasks-per-node=2 --output=logs/%x-%j.out",
        *root,
        f"mpirun.{MPI} niimpi smooth {data} --output out --sigma 2 --threads 1 "
        '--report "logs/$SLURM_JOB_NAME-$SLURM_JOB_ID.json"',
    )
    check(user.submit("mpirun.sbatch"), user, expected, ranks=6, threads=1, hosts=3)


def test_serial(user, data, expected):
    check(user.submit("serial.sbatch", DATA=data), user, expected, ranks=1, threads=1, hosts=1)


@pytest.mark.parametrize("cpus", [1, 2])
def test_threads_are_the_cpus_that_slurm_gave(user, data, expected, cpus):
    job = user.submit("threads.sbatch", f"--cpus-per-task={cpus}", DATA=data)
    check(job, user, expected, ranks=1, threads=min(cpus, CPUS_HERE), hosts=1)


def test_threads_are_never_more_than_the_rank_may_use(user, data):
    """A rank that is bound to one CPU has one worker, even if Slurm allocated more."""
    bound = user.run("srun", "--mpi=pmix", "--cpus-per-task=2", "taskset", "-c", "0",
                     "niimpi", "smooth", data, "--output", "out", "--sigma=2",
                     "--dry-run").stdout  # fmt: skip
    (row,) = [line.split() for line in bound.splitlines() if re.match(r"\|\s+0\s", line)]
    assert row[3] == "1", bound


def test_hybrid(user, data, expected):
    job = user.submit("hybrid.sbatch", "--cpus-per-task=2", DATA=data)
    report = check(job, user, expected, ranks=3, threads=min(2, CPUS_HERE), hosts=3)
    assert report["strategy"] == "dynamic"


def test_gpus(user, data, expected):
    """A rank for each GPU. Slurm hands out files in place of GPUs, and pocl computes."""
    listed = user.run("srun", "niimpi", "devices", "--json", check=False)
    if listed.returncode != 0 or not json.loads(listed.stdout):
        reason = f"no OpenCL device: .ci/install opencl\n{listed.stdout}{listed.stderr}"
        pytest.fail(reason) if os.environ.get("CLUSTER") == "required" else pytest.skip(reason)
    job = user.submit("gpu.sbatch", "--cpus-per-task=2", "--ntasks-per-node=2", DATA=data)
    report = check(job, user, expected, ranks=4, threads=min(2, CPUS_HERE), hosts=2)
    names = {device["name"] for device in json.loads(listed.stdout)}
    assert {rank["device"] for rank in report["ranks"]} <= names
    (record,) = job.records()
    assert record["TresPerTask"].endswith("gpu:1"), record


@pytest.mark.parametrize("script", ["mpi.sbatch", "hybrid.sbatch", "gpu.sbatch", "requeue.sbatch"])
@pytest.mark.parametrize("chosen, found", [({}, "ring"), ({"SLURM_PMIX_FENCE": "tree"}, "tree")])
def test_scripts_for_several_nodes_set_the_ring_fence(user, data, script, chosen, found):
    """docs/slurm.md explains why. A user's own choice is kept."""
    user.edit(script, '"${step[@]}" niimpi', '"${step[@]}" printenv SLURM_PMIX_FENCE; exit; niimpi')
    job = user.submit(script, "--nodes=2", "--ntasks-per-node=1", DATA=data, **chosen).ends("COMPLETED")
    assert job.output().split()[-2:] == [found] * 2, job.output()


def test_variables_at_the_top_are_exported_ones(user, data, cluster):
    """SIGMA and OUT, as described at the top of the scripts."""
    job = user.submit("serial.sbatch", DATA=data, SIGMA=1.5, OUT="elsewhere").ends("COMPLETED")
    assert job.report()["filter"]["sigma_vox"] == [1.5] * 3
    assert len(sums(user.folder / "elsewhere")) == 60


def test_the_filter_is_a_variable(user, data, cluster):
    """FILTER may contain options. SIGMA together with another width, or a filter without --sigma, is an
    error."""
    chosen = "smooth --fwhm 6 --exclude 'sample 1*'"
    job = user.submit("serial.sbatch", DATA=data, FILTER=chosen).ends("COMPLETED")
    assert job.report()["filter"]["fwhm_mm"] == [6.0] * 3 and job.report()["totals"]["done"] == 60
    for number, chosen in enumerate(("smooth --fwhm 6", "denoise", "verify")):
        refused = user.submit("serial.sbatch", DATA=data, FILTER=chosen, SIGMA=2, OUT=f"other-{number}")
        refused.ends("FAILED", "2:0")
        assert "--sigma" in refused.output() and not (user.folder / f"other-{number}").exists()


@pytest.mark.parametrize(
    "script, chosen",
    [("mpi.sbatch", "denoise --noise-model gaussian"), ("hybrid.sbatch", "median --size 5")],
)
def test_other_filters_over_nodes(user, data, script, chosen):
    job = user.submit(script, DATA=data, FILTER=chosen).ends("COMPLETED")
    assert job.report()["totals"]["done"] == 60
    assert sums(user.folder / "out") == filter_here(data, user.folder / "expected", *chosen.split())


def test_masks_are_a_variable(user, data):
    """A mask for each image, in a folder with a space. Quotes keep one in FILTER together as well."""
    shutil.copytree(data, user.folder / "brain masks")
    mask = "brain masks/{stem}"
    job = user.submit("serial.sbatch", DATA=data, FILTER="median", MASK=mask).ends("COMPLETED")
    assert job.report()["filter"]["mask"] == mask and job.report()["totals"]["done"] == 60
    chosen = f"median --mask '{mask}'"
    job = user.submit("threads.sbatch", "--cpus-per-task=2", DATA=data, FILTER=chosen, OUT="again")
    job.ends("COMPLETED")
    whole = filter_here(data, user.folder / "expected", "median", "--mask", user.folder / mask)
    assert sums(user.folder / "out") == sums(user.folder / "again") == whole


def test_a_second_submission_keeps_what_is_there(user, data, expected):
    user.submit("serial.sbatch", DATA=data).ends("COMPLETED")
    totals = user.submit("serial.sbatch", DATA=data).ends("COMPLETED").report()["totals"]
    assert (totals["done"], totals["skipped"]) == (0, 60)
    assert sums(user.folder / "out") == expected


def test_the_interactive_session(user, data, expected):
    """Runs the commands of slurm/interactive.md unchanged in an allocation."""
    page = (SCRIPTS / "interactive.md").read_text()
    ask, session = re.findall(r"```bash\n(.*?)```", page, flags=re.S)
    (salloc,) = [line for line in ask.splitlines() if line.startswith("salloc ")]
    (user.folder / "session.sh").write_text("set -e\n" + session)
    finished = user.run(*salloc.split(), "bash", "session.sh", DATA=data)
    assert "60 images to do" in finished.stdout and "1 of 1 images done" in finished.stdout
    assert "9 of 10 images done, 1 kept" in finished.stdout and "2 ranks on 1 node" in finished.stdout
    results = sums(user.folder / "try")
    assert len(results) == 10 and results.items() <= expected.items()
