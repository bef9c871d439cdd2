"""One machine of the test cluster: a process tree with its own host name, network and (on a node) /tmp."""

import os
import subprocess
from pathlib import Path

from processes import ClusterError, PidFile, children, wait_for

HERE = Path(__file__).resolve().parent
# Debian's folders for daemons, which are not on every user's PATH.
PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"


class Machine:
    """The head node or a node. All its processes end with its first process."""

    def __init__(self, name, address, state):
        self.name, self.address, self.state = name, address, Path(state)
        self.pid_file = PidFile(self.state / "run" / f"{name}.pid")

    @property
    def booted(self):
        return self.pid_file.pid() is not None

    def boot(self, shared=()):
        """Creates the namespaces and starts the first process in them. Returns before the machine is
        ready."""
        ready = self.state / "run" / f"{self.name}.booted"
        ready.unlink(missing_ok=True)
        log = self.state / "log" / f"{self.name}.log"
        flags = ["--net", "--uts", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
        boot = [str(HERE / "boot.sh"), self.name, self.address, str(self.state), *map(str, shared)]
        with open(log, "w") as output:
            outer = subprocess.Popen(
                ["unshare", *flags, "bash", *boot],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment(),
                start_new_session=True,
            )
        wait_for(f"{self.name}'s namespaces", lambda: children(outer.pid) or outer.poll() is not None, 10)
        if outer.poll() is not None:
            raise ClusterError(
                f"this machine lets us make no namespaces ({log.read_text().strip()}); in a container, run "
                f"it with "
                "--privileged or --cap-add SYS_ADMIN,NET_ADMIN"
            )
        self.pid_file.write(children(outer.pid)[0])

    def wait_until_booted(self):
        ready = self.state / "run" / f"{self.name}.booted"
        log = self.state / "log" / f"{self.name}.log"
        wait_for(f"the start of {self.name}", ready.exists, 15, log.read_text)

    def plug_in(self, head, number):
        """Connects this machine to the head's switch. The MAC address is fixed, so that a rebooted node is
        recognised."""
        cable = f"to-{self.name}"
        subprocess.run(head.words("ip", "link", "delete", cable), stderr=subprocess.DEVNULL)
        mac = f"02:00:00:00:00:{number:02x}"
        # `ip` in the head's namespace cannot refer to a process outside it, so this runs outside, in the
        # head's network namespace.
        inside = ["nsenter", "--target", str(head.pid_file.pid()), "--net", "ip", "link"]
        peer = ["peer", "name", "eth0", "address", mac, "netns", str(self.pid_file.pid())]
        subprocess.run([*inside, "add", cable, "type", "veth", *peer], check=True)
        subprocess.run([*inside, "set", cable, "master", "switch", "up"], check=True)

    def crash(self):
        """Kills all processes of the machine at once, as in a power failure."""
        self.pid_file.kill()

    def environment(self, **extra):
        """The environment of processes on a machine of the cluster."""
        return {**os.environ, "PATH": PATH, "SLURM_CONF": str(self.state / "conf" / "slurm.conf"), **extra}

    def words(self, *command, user=None, folder=None):
        """The command line that runs a command on this machine, in the current folder or `folder`, as root or
        as `user` (uid, gid)."""
        pid = self.pid_file.pid()
        if pid is None:
            raise ClusterError(f"{self.name} is down; `tests/cluster/cluster up` boots it")
        become = ["setpriv", f"--reuid={user[0]}", f"--regid={user[1]}", "--init-groups"] if user else []
        # Also sets the root folder: in a chroot, entering the namespace alone would leave the chroot.
        spaces = ["--net", "--uts", "--mount", "--ipc", "--pid", "--root", f"--wdns={folder or os.getcwd()}"]
        return ["nsenter", "--target", str(pid), *spaces, *become, *map(str, command)]

    def run(self, *command, timeout=30, check=True, **options):
        """Runs a command on this machine. Returns its output as text."""
        return subprocess.run(
            self.words(*command),
            timeout=timeout,
            check=check,
            text=True,
            capture_output=True,
            env=self.environment(),
            **options,
        )

    def succeeds(self, *command):
        """Whether a command succeeds within five seconds."""
        try:
            return self.run(*command, timeout=5, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def start_daemon(self, name, *command):
        """Starts a process that keeps running, with a log file of its name."""
        with open(self.state / "log" / f"{name}.out", "w") as output:
            return subprocess.Popen(
                self.words(*command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment(),
                start_new_session=True,
                cwd="/",
            )
