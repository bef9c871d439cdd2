"""Runs the commands of docs/workshop.md in their order in one shell on the head node. Each block succeeds and
prints what the page shows, except for the figures.

With WORKSHOP_WRITE=1 the test writes what was printed into the page instead of comparing it.
"""

import json
import os
import re
import subprocess
import textwrap
import time

import pytest

import jobs
from slurm_cluster import ROOT

pytestmark = pytest.mark.timeout(300)
PAGE = ROOT / "docs" / "workshop.md"
BLOCK = re.compile(r"```bash\n(?P<commands>.*?)```\n(?:\n```text\n(?P<shown>.*?)```\n)?", re.S)
# The fixtures do what these blocks do.
START = "make cluster\nexport PATH=$PWD/target/release:$PATH\ntests/cluster/cluster shell\n"
END = "exit\nmake cluster-down\n"
END_OF_BLOCK = "end of block"
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT")


class Shell:
    """A shell on the head node that runs one block after the other, as if a student typed them."""

    def __init__(self, user):
        self.home = str(user.folder)
        env = user.cluster.head.environment(**jobs.environment() | {"HOME": self.home})
        words = user.cluster.head.words("bash", "--norc", folder=ROOT)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(words, env=env, text=True, **pipes)
        self.file = user.folder / "block.sh"

    def run(self, commands):
        """Runs a block. Returns the commands that failed, and the output."""
        # salloc starts a shell that reads the next blocks. Other commands must not read them.
        words = commands.strip()
        if not words.startswith("salloc "):
            self.file.write_text("failed=\ntrap 'failed+=\"$BASH_COMMAND; \"' ERR\n" + commands)
            words = f"source {self.file} </dev/null"
        self.process.stdin.write(f'{words}\necho "{END_OF_BLOCK} $failed"\n')
        self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            output, found, failed = line.partition(END_OF_BLOCK)
            lines.append(output)
            if found:
                # srun passes on log lines and other output in any order.
                lines.sort(key=lambda line: not LOG_LINE.match(line))
                return failed.strip(), "".join(lines).replace(self.home, "…")
        raise AssertionError(f"the shell ended in\n{commands}\n{''.join(lines)}")


def shape(text):
    """The words without figures, units of time, widths of columns, and what depends on the moment."""
    waits = r"salloc: (Pending|job|Job|Waiting|Nodes)|srun: job|.* images/s, \w+ left"
    text = re.sub(rf"^({waits}).*\n", "", text, flags=re.M)
    text = re.sub(r"n\[[\d,-]+\]|\bn\d\b|\((None|Priority|Resources)\)", "PLACE", text)
    text = re.sub(r"\b(PD|CF|R|CG)(?= +\d+:\d\d)", "STATE", text)
    text = re.sub(r"–|\d[\d.:,T-]*(e-?\d+)?", "#", text)
    text = re.sub(r"# ?(?:ms|s|min|h|K|M|G)\b", "#", text)
    text = re.sub(r"\b(image|rank|thread|node|worker|job)s\b", r"\1", text)
    text = re.sub(r"[-=]{3,}", "---", text)
    return " ".join(re.sub(r"[|*]", " ", text).split())


def run_until_it_fits(shell, commands, shown):
    """Runs a block. Accounting lags some seconds behind, so a block that only asks for it is repeated."""
    limit = time.monotonic() + 20
    while True:
        failed, output = shell.run(commands)
        assert not failed, f"failed: {failed}\n{output}"
        fits = shape(output) == shape(shown)
        if fits or not commands.startswith("sacct ") or time.monotonic() > limit:
            return output
        time.sleep(1)


def lacks_opencl(user):
    """Whether this machine has no OpenCL device and may do without one."""
    listed = user.run("niimpi", "devices", "--json", check=False).stdout
    return os.environ.get("CLUSTER") != "required" and not json.loads(listed or "[]")


def test_every_block_of_the_workshop(user):
    page = PAGE.read_text()
    blocks = list(BLOCK.finditer(page))
    assert page.count("```") == sum(2 + 2 * (block["shown"] is not None) for block in blocks)
    assert (blocks[0]["commands"], blocks[-1]["commands"]) == (START, END)
    write = "WORKSHOP_WRITE" in os.environ
    outputs = []
    shell = Shell(user)
    try:
        for block in blocks[1:-1]:
            commands, shown = block["commands"], block["shown"] or ""
            if "gpu.sbatch" in commands and lacks_opencl(user):
                print("skipped, no OpenCL device: .ci/install opencl")
                outputs.append(shown)
                continue
            started = time.monotonic()
            output = run_until_it_fits(shell, commands, shown)
            print(f"{time.monotonic() - started:5.1f} s  {commands.splitlines()[0]}")
            assert write or shape(output) == shape(shown), f"{commands}\n{output}"
            outputs.append(output)
    finally:
        shell.process.kill()
    if write:
        PAGE.write_text(BLOCK.sub(lambda block: with_output(block, outputs), page))


def with_output(block, outputs):
    """A block of the page with what its commands printed. Long lines are wrapped, except those of tables."""
    commands = block["commands"]
    if commands in (START, END):
        return block.group()
    lines = []
    for line in outputs.pop(0).splitlines():
        lines += [line.rstrip()] if line[:1] in ("|", "+") else textwrap.wrap(line, 110) or [""]
    output = "\n".join(lines) + "\n"
    return f"```bash\n{commands}```\n" + (f"\n```text\n{output}```\n" if output.strip() else "")
