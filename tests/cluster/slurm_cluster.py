"""A Slurm cluster on one machine: a head node and some nodes, with MUNGE, accounting and a database.

Each machine has its own network, host name, process tree and shared memory. Ranks on different nodes
therefore communicate over TCP as on a real cluster, and a node can crash without affecting the others. Each
node has its own /tmp. All machines share the rest of the file system.
"""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import string
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from machine import HERE, PATH, Machine
from processes import ClusterError, wait_for

ROOT = HERE.parent.parent
DEFAULT_STATE = "/var/tmp/niimpi-cluster"
NEEDED = (
    "slurmctld slurmd slurmdbd munged mariadbd mariadb mariadb-install-db ip nsenter unshare setpriv".split()
)
# A private network, visible only in the cluster's namespaces.
NETWORK = "10.99.77"
READY_STATES = {"idle", "mixed", "allocated", "completing"}


@dataclass
class Shape:
    """The size of the cluster. CPUs and memory are declared to Slurm, independent of the machine."""

    nodes: int = 3
    cpus: int = 4
    memory_mb: int = 8000
    max_array_size: int = 1001
    shared: list = field(default_factory=list)  # other folders below /tmp that all nodes see


class SlurmCluster:
    """The cluster with its files in `state`. Several clusters can run at the same time in different
    folders."""

    def __init__(self, state=None):
        self.state = Path(state or os.environ.get("CLUSTER_STATE") or DEFAULT_STATE).resolve()
        self.head = Machine("head", f"{NETWORK}.254", self.state)

    # ---- parts

    @property
    def shape(self):
        """The shape with which it was started."""
        try:
            return Shape(**json.loads((self.state / "shape.json").read_text()))
        except OSError:
            raise ClusterError("there is no cluster; `tests/cluster/cluster up` starts one") from None

    def node(self, name):
        number = int(name[1:]) if name[:1] == "n" and name[1:].isdigit() else 0
        if not 1 <= number <= self.shape.nodes:
            raise ClusterError(f"{name}: the nodes are n1 to n{self.shape.nodes}")
        return Machine(name, f"{NETWORK}.{number}", self.state)

    def machine(self, name):
        return self.head if name == "head" else self.node(name)

    def nodes(self):
        return [self.node(f"n{number}") for number in range(1, self.shape.nodes + 1)]

    # ---- start

    def up(self, shape=None, say=lambda text: None):
        """Starts all machines that are not running. A second call changes nothing."""
        missing = [name for name in NEEDED if shutil.which(name, path=PATH) is None]
        if missing:
            raise ClusterError(
                f"not installed: {', '.join(missing)}; `make cluster` installs what is missing"
            )
        started = time.monotonic()

        def progress(text):
            say(f"{time.monotonic() - started:5.1f} s  {text}")

        with self.locked():
            if not self.head.booted:
                self.clear()  # files from before a reboot of the whole machine
                self.write_configuration(shape or Shape())
            elif shape is not None and shape != self.shape:
                raise ClusterError(
                    "a cluster of another size is running; stop it first with `tests/cluster/cluster down`"
                )
            new = self.boot_machines()
            progress("machines: " + (", ".join(machine.name for machine in new) or "all running"))
            if self.head in new:
                self.start_head(progress)
            for machine in new:
                if machine is not self.head:
                    machine.run("slurmd", "-N", machine.name)
            self.wait_until_ready()
            shape = self.shape
            progress(f"cluster running: {shape.nodes} nodes of {shape.cpus} CPUs, {shape.memory_mb} MB")

    @contextlib.contextmanager
    def locked(self):
        """Allows one `up` or `down` at a time. The lock is next to the state folder, which `down` removes."""
        path = self.state.with_name(self.state.name + ".lock")
        with open(path, "w") as lock:
            limit = time.monotonic() + 60
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > limit:
                        raise ClusterError("another command is starting or stopping this cluster") from None
                    time.sleep(0.1)
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def write_configuration(self, shape):
        for name in ("conf", "run", "log", "spool", "node", "controller", "munge", "home"):
            (self.state / name).mkdir(parents=True, exist_ok=True)
        (self.state / "shape.json").write_text(json.dumps(asdict(shape)))
        addresses = {machine.name: machine.address for machine in [self.head, *self.nodes()]}
        hosts = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
        (self.state / "conf" / "hosts").write_text("\n".join(hosts) + "\n")
        # One line per node with its address, so that no name service is needed.
        size = f"CPUs={shape.cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={shape.cpus} ThreadsPerCore=1"
        size += f" RealMemory={shape.memory_mb} Gres=gpu:2"
        lines = [
            f"NodeName={node.name} NodeAddr={node.address} {size} State=UNKNOWN" for node in self.nodes()
        ]
        words = {
            "state": self.state,
            "head_address": self.head.address,
            "memory_per_cpu_mb": shape.memory_mb // shape.cpus,
            "max_array_size": shape.max_array_size,
            "nodes": "\n".join(lines),
        }
        for template in (HERE / "conf").iterdir():
            target = self.state / "conf" / template.name
            text = template.read_text()
            # safe_substitute leaves the variables of shell scripts unchanged.
            target.write_text(string.Template(text).safe_substitute(words))
            target.chmod(0o755 if template.suffix == ".sh" else 0o600 if "dbd" in template.name else 0o644)
        key = self.state / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)

    def boot_machines(self):
        """Boots all machines that are down, at the same time. Returns them."""
        new = [machine for machine in [self.head, *self.nodes()] if not machine.booted]
        shape = self.shape
        shared = [
            path for path in (ROOT, self.state, *map(Path, shape.shared)) if path.is_relative_to("/tmp")
        ]
        for machine in new:
            machine.boot(shared)
        if self.head in new:
            self.head.wait_until_booted()
        for machine in new:
            if machine is not self.head:
                machine.plug_in(self.head, int(machine.name[1:]))
        for machine in new:
            machine.wait_until_booted()
        return new

    def start_head(self, progress):
        """Starts MUNGE, the database, the accounting and the controller. Each needs the previous one."""
        head, state = self.head, self.state
        log = state / "log"

        def end_of_log(name):
            return lambda: "\n".join((log / name).read_text(errors="replace").splitlines()[-5:])

        socket = state / "munge" / "socket"
        munge = ["--socket", socket, "--key-file", state / "munge/key", "--pid-file", state / "munge/pid"]
        munge += ["--seed-file", state / "munge/seed", "--log-file", log / "munged.log"]
        head.start_daemon("munged", "munged", "--foreground", "--force", "--num-threads", "2", *munge)

        database, database_socket = state / "database", state / "run" / "database.sock"
        small = ["--innodb-log-file-size=16M"]
        install = ["--no-defaults", "--user=root", f"--datadir={database}", "--skip-test-db"]
        head.run("mariadb-install-db", *install, *small, "--auth-root-authentication-method=normal")
        options = ["--no-defaults", "--user=root", f"--datadir={database}", f"--socket={database_socket}"]
        options += [f"--pid-file={state}/run/database.pid", "--bind-address=127.0.0.1", "--port=13306"]
        # Small and not crash-safe, because the database exists only as long as the cluster.
        options += [*small, "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0"]
        options += ["--innodb-lock-wait-timeout=900", "--max-allowed-packet=16M", "--performance-schema=OFF"]
        head.start_daemon("mariadbd", "mariadbd", *options)
        client = ["mariadb", "--no-defaults", f"--socket={database_socket}", "-u", "root", "-e"]
        wait_for("the database", lambda: head.succeeds(*client, "select 1"), 30, end_of_log("mariadbd.out"))
        head.run(
            *client,
            "create database slurm_acct_db; create user 'slurm'@'127.0.0.1' identified by 'slurm';"
            "grant all on slurm_acct_db.* to 'slurm'@'127.0.0.1';",
        )
        wait_for("MUNGE", lambda: head.succeeds("munge", "-S", socket, "-n"), 10, end_of_log("munged.out"))
        progress("MUNGE and the database")

        head.start_daemon("slurmdbd", "slurmdbd", "-D")
        list_clusters = ("sacctmgr", "-n", "list", "cluster")
        wait_for("the accounting", lambda: head.succeeds(*list_clusters), 30, end_of_log("slurmdbd.out"))
        head.run("sacctmgr", "-i", "add", "cluster", "lab")
        head.start_daemon("slurmctld", "slurmctld", "-D")
        wait_for("the controller", lambda: head.succeeds("scontrol", "ping"), 20, end_of_log("slurmctld.out"))
        progress("accounting and controller")

    def node_states(self):
        """Node → Slurm's state without suffixes; "silent" for a node that does not respond (suffix *)."""
        listed = self.head.run("sinfo", "-h", "-N", "-o", "%N %T", timeout=10).stdout
        return {name: state.rstrip("*~#!%$@^-") if not state.endswith("*") else "silent"
                for name, state in (line.split() for line in listed.splitlines())}  # fmt: skip

    def wait_until_ready(self):
        """Waits until every node has contacted the controller. Resumes nodes that Slurm marked as down."""

        def ready():
            with contextlib.suppress(subprocess.SubprocessError):
                return all(state in READY_STATES for state in self.node_states().values())

        with contextlib.suppress(ClusterError):
            return wait_for("the nodes", ready, 5)
        for name, state in self.node_states().items():
            if state not in READY_STATES:
                self.head.run("scontrol", "update", f"nodename={name}", "state=resume", check=False)
        # Makes the controller contact all nodes at once.
        self.head.run("scontrol", "reconfigure", check=False)
        wait_for("the nodes", ready, 20, lambda: self.head.run("sinfo", "-N", "-l", check=False).stdout)

    # ---- crash and stop

    def crash(self, name, tell_slurm=False):
        """Crashes a node. With `tell_slurm`, also reports the crash to the controller."""
        self.node(name).crash()
        if tell_slurm:
            self.head.run("scontrol", "update", f"nodename={name}", "state=down", "reason=crash")

    def down(self):
        """Ends all processes of the cluster and removes all its files."""
        with self.locked():
            self.clear()

    def clear(self):
        for pid_file in sorted((self.state / "run").glob("*.pid")):
            machine = Machine(pid_file.stem, "", self.state)
            if machine.name == "head" or machine.name[1:].isdigit():
                machine.crash()
        shutil.rmtree(self.state, ignore_errors=True)
        if self.state.exists():  # an ending process may have written a file
            shutil.rmtree(self.state)
