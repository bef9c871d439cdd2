"""One machine of the test cluster: a process tree with a host name, a network and (on a node) a /tmp of its
own."""

import os
import subprocess
from pathlib import Path

from processes import ClusterError, PidFile, children, wait_for

HERE = Path(__file__).resolve().parent
# Where Debian keeps daemons, which is not on everyone's PATH.
PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/sbin:/usr/sbin:/sbin"


class Machine:
    """The head or a node. What lives on it dies with its first process."""

    def __init__(self, name, address, state):
        self.name, self.address, self.state = name, address, Path(state)
        self.pid_file = PidFile(self.state / "run" / f"{name}.pid")

    @property
    def booted(self):
        return self.pid_file.pid() is not None

    def boot(self, shared=()):
        """Makes the namespaces and starts the first process in them. Returns before the machine is ready."""
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
        """Lays a cable from this machine to the head's switch. A fixed MAC: a rebooted node must not look
        new."""
        cable = f"to-{self.name}"
        subprocess.run(head.words("ip", "link", "delete", cable), stderr=subprocess.DEVNULL)
        mac = f"02:00:00:00:00:{number:02x}"
        # The head's own ip cannot name a process outside its tree, so this one is made from outside, in its
        # network.
        inside = ["nsenter", "--target", str(head.pid_file.pid()), "--net", "ip", "link"]
        peer = ["peer", "name", "eth0", "address", mac, "netns", str(self.pid_file.pid())]
        subprocess.run([*inside, "add", cable, "type", "veth", *peer], check=True)
        subprocess.run([*inside, "set", cable, "master", "switch", "up"], check=True)

    def crash(self):
        """A power cut: every process of the machine is killed at once."""
        self.pid_file.kill()

    def environment(self, **extra):
        """The environment of what runs on a machine of the cluster."""
        return {**os.environ, "PATH": PATH, "SLURM_CONF": str(self.state / "conf" / "slurm.conf"), **extra}

    def words(self, *command, user=None, folder=None):
        """The words that run a command on this machine, in the folder we stand in or another; as root or as
        (uid, gid)."""
        pid = self.pid_file.pid()
        if pid is None:
            raise ClusterError(f"{self.name} is down; `tests/cluster/cluster up` boots it")
        become = ["setpriv", f"--reuid={user[0]}", f"--regid={user[1]}", "--init-groups"] if user else []
        # Its root too: where all of this runs in a chroot, a namespace alone would lead out of it.
        spaces = ["--net", "--uts", "--mount", "--ipc", "--pid", "--root", f"--wdns={folder or os.getcwd()}"]
        return ["nsenter", "--target", str(pid), *spaces, *become, *map(str, command)]

    def run(self, *command, timeout=30, check=True, **options):
        """Runs a command on this machine to its end; its output as text."""
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
        """Whether a command, given five seconds, ends well."""
        try:
            return self.run(*command, timeout=5, check=False).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def start_daemon(self, name, *command):
        """Starts a process that stays; its words go to a log file of its name."""
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
