"""A real SLURM on this one machine, for the tests: three nodes, sixteen pretend GPUs.

    python3 tests/cluster/cluster.py up [--network none]    (or `make cluster-up`)
    python3 tests/cluster/cluster.py exec -- sinfo
    python3 tests/cluster/cluster.py down                   (or `make cluster-down`)

Needs root on Debian, and no Python but the system's. Reads the templates beside this file. Writes
/var/lib/nanochat-cluster (or $NANOCHAT_CLUSTER_DIR), three files in /etc/slurm and one line of
/etc/hosts, and takes all of it away again.
"""

import argparse
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

HERE = Path(__file__).resolve().parent
STATE = Path(os.environ.get("NANOCHAT_CLUSTER_DIR", "/var/lib/nanochat-cluster")).absolute()
PIDS, LOGS = STATE / "pids", STATE / "logs"
NAMESPACE = STATE / "netns"  # a network namespace is mounted here when the cluster has no network
MARKER = STATE / "nanochat-cluster"  # only a folder with this file is ever deleted
ETC = Path("/etc/slurm")
CONFIGS = {"slurm.conf": 0o644, "gres.conf": 0o644, "slurmdbd.conf": 0o600}
SIGNATURE = f"# Written by nanochat's tests/cluster/cluster.py for {STATE}\n"
HOSTS = Path("/etc/hosts")
HOSTS_LINE = "127.0.0.1 gpu01 gpu02 cpu01 # nanochat test cluster\n"
NODES = ("gpu01", "gpu02", "cpu01")
PACKAGES = (
    "slurmctld",
    "slurmd",
    "slurmdbd",
    "slurm-client",
    "slurm-wlm-basic-plugins",
    "slurm-wlm-mysql-plugin",
    "munge",
    "mariadb-server",
    "iproute2",
)
ACCOUNTS = (
    "add cluster nanochat",
    "add qos class-cse8990 MaxWall=12:00:00 Flags=DenyOnLimit",
    "add account class-cse8990 qos=class-cse8990 defaultqos=class-cse8990",
    "add account other qos=normal defaultqos=normal",
    "add user root account=class-cse8990 defaultaccount=class-cse8990",
    "add user root account=other",
)


class ClusterError(Exception):
    """What this machine or its user can cause: printed as one sentence, exit 2."""


# --- processes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Daemon:
    """A program of the cluster, kept in the foreground so that its process id is known."""

    name: str
    argv: tuple[str, ...]
    user: str = "root"
    loopback: bool = True
    """It talks TCP, so it lives in the namespace if there is one; the others use unix sockets."""

    @property
    def pid_file(self) -> Path:
        return PIDS / f"{self.name}.pid"

    def pid(self) -> int | None:
        """Its process id, if that process is alive and is really this daemon."""
        try:
            pid = int(self.pid_file.read_text())
            seen = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if seen.split(b"\0")[:-1] == [os.fsencode(word) for word in self.argv] else None

    def start(self) -> None:
        with open(LOGS / f"{self.name}.stderr", "a") as stderr:
            process = subprocess.Popen(
                [*(inside() if self.loopback else []), *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                start_new_session=True,
                cwd="/",
                env={
                    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                    "MYSQL_UNIX_PORT": str(DATABASE_SOCKET),
                },
                user=self.user,
                group=self.user,
                extra_groups=[],
            )
        self.pid_file.write_text(f"{process.pid}\n")

    def stop(self, patience_seconds: float = 10) -> bool:
        """Ask it to end, insist after a while; says whether it was running."""
        if (pid := self.pid()) is None:
            self.pid_file.unlink(missing_ok=True)
            return False
        os.kill(pid, signal.SIGTERM)
        if not wait(lambda: self.pid() is None, patience_seconds):
            os.kill(pid, signal.SIGKILL)
            wait(lambda: self.pid() is None, 5)
        self.pid_file.unlink(missing_ok=True)
        return True


DATABASE_SOCKET = STATE / "mariadb" / "socket"
MUNGE = Daemon(
    "munged",
    (
        "/usr/sbin/munged",
        "--foreground",
        f"--key-file={STATE}/munge/key",
        f"--socket={STATE}/munge/socket",
        f"--pid-file={STATE}/munge/pid",
        f"--seed-file={STATE}/munge/seed",
        f"--log-file={STATE}/munge/log",
    ),
    user="munge",
    loopback=False,
)
DATABASE_OPTIONS = (
    "--no-defaults",
    f"--datadir={STATE}/mariadb/data",
    "--innodb-log-file-size=16M",
    "--innodb-flush-log-at-trx-commit=0",
)
DATABASE = Daemon(
    "mariadbd",
    (
        "/usr/sbin/mariadbd",
        *DATABASE_OPTIONS,
        "--skip-networking",
        f"--socket={DATABASE_SOCKET}",
        f"--pid-file={STATE}/mariadb/pid",
        "--innodb-buffer-pool-size=64M",
        "--innodb-lock-wait-timeout=900",
    ),
    user="mysql",
    loopback=False,
)
ACCOUNTING = Daemon("slurmdbd", ("/usr/sbin/slurmdbd", "-D"))
CONTROLLER = Daemon("slurmctld", ("/usr/sbin/slurmctld", "-D"))
SLURMDS = {name: Daemon(name, ("/usr/sbin/slurmd", "-D", "-N", name)) for name in NODES}
DAEMONS = (MUNGE, DATABASE, ACCOUNTING, CONTROLLER, *SLURMDS.values())


def inside() -> list[str]:
    """What goes before a command so that it runs where the cluster's network is."""
    return ["nsenter", f"--net={NAMESPACE}"] if os.path.ismount(NAMESPACE) else []


def ask(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*inside(), *command.split()], capture_output=True, text=True, timeout=60, check=False
    )


def must(argv: list[str], **options: object) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
        raise ClusterError(f"`{' '.join(argv[:3])} ...` failed: {last[0]}")


def wait(ready: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def processes_of(node: str) -> Iterator[int]:
    """slurmd and slurmstepd hold the node's log open; jobs have its name in their environment."""
    marks = {f"SLURMD_NODENAME={node}".encode(), b"SLURM_CLUSTER_NAME=nanochat"}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            in_job = marks <= set((folder / "environ").read_bytes().split(b"\0"))
            files = (os.readlink(fd) for fd in (folder / "fd").iterdir())
            if in_job or f"{LOGS}/{node}.log" in files:
                yield int(folder.name)


def cut_power(node: str) -> None:
    """Kill all that runs on a node, again until nothing is left that could have forked."""

    def nothing_left() -> bool:
        victims = [pid for pid in processes_of(node) if pid != os.getpid()]
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not victims

    if not wait(nothing_left, 10):
        raise ClusterError(f"processes of {node} survive SIGKILL: see ps")
    SLURMDS[node].pid_file.unlink(missing_ok=True)


# --- the machine ---------------------------------------------------------------------------------


def check_machine() -> None:
    if os.geteuid() != 0:
        raise ClusterError("the test cluster needs root: it starts SLURM's daemons")
    if not shutil.which("apt-get") or not Path("/etc/debian_version").exists():
        raise ClusterError("the test cluster needs Debian with apt: it installs SLURM's packages")
    conf = ETC / "slurm.conf"
    if conf.exists() and not conf.read_text().startswith(SIGNATURE):
        raise ClusterError(f"{conf} is not this cluster's: a SLURM that is in use stays untouched")
    if STATE.exists() and any(STATE.iterdir()) and not MARKER.exists():
        raise ClusterError(f"{STATE} has other files in it: set NANOCHAT_CLUSTER_DIR")


def installed() -> bool:
    asked = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Status}\n", *PACKAGES],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.count("install ok installed") == len(PACKAGES)


def install() -> None:
    """Debian starts the daemons it installs unless policy-rc.d says 101."""
    print("installing SLURM's packages ...", flush=True)
    policy = Path("/usr/sbin/policy-rc.d")
    mine = not policy.exists()
    if mine:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        must(["apt-get", "update", "-qq"], env=env)
        must(["apt-get", "install", "-qq", "--no-install-recommends", *PACKAGES], env=env)
    finally:
        if mine:
            policy.unlink()


def prepare_state() -> None:
    STATE.mkdir(parents=True, exist_ok=True)
    STATE.chmod(0o755)
    MARKER.touch()
    for folder in ("pids", "logs", "slurmctld", "slurmd", "gpus"):
        (STATE / folder).mkdir(exist_ok=True)
    for gpu in range(8):
        (STATE / "gpus" / str(gpu)).touch()
    munge, mariadb = STATE / "munge", STATE / "mariadb"
    munge.mkdir(mode=0o755, exist_ok=True)
    if not (munge / "key").exists():
        (munge / "key").write_bytes(os.urandom(1024))
        (munge / "key").chmod(0o400)
        shutil.chown(munge / "key", "munge", "munge")
    shutil.chown(munge, "munge", "munge")
    mariadb.mkdir(mode=0o700, exist_ok=True)
    shutil.chown(mariadb, "mysql", "mysql")


def write_config() -> None:
    values = {
        "state": STATE,
        "host": socket.gethostname().partition(".")[0],
        "python": sys.executable,
    }
    ETC.mkdir(exist_ok=True)
    for name, mode in CONFIGS.items():
        path = ETC / name
        path.touch(mode)
        path.chmod(mode)
        path.write_text(SIGNATURE + Template((HERE / name).read_text()).substitute(values))
    epilog = STATE / "epilog.py"
    epilog.write_text(Template((HERE / "epilog.py").read_text()).substitute(values))
    epilog.chmod(0o755)
    if HOSTS_LINE not in (known := HOSTS.read_text()):
        HOSTS.write_text(known + ("" if known.endswith("\n") else "\n") + HOSTS_LINE)


def make_namespace() -> None:
    """A network with nothing but loopback, kept alive by a mount on the file NAMESPACE.

    SLURM resolves even 127.0.0.1 with AI_ADDRCONFIG, for which 127.0.0.1 does not count as having
    an IPv4 address; 127.0.0.2 does.
    """
    if os.path.ismount(NAMESPACE):
        return
    NAMESPACE.touch()
    must(["unshare", f"--net={NAMESPACE}", "ip", "link", "set", "lo", "up"])
    must([*inside(), "ip", "address", "add", "127.0.0.2/8", "dev", "lo"])


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two `up`s at once take turns. The lock is on a folder that exists anyway: no file remains."""
    folder = os.open("/var/lib", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


# --- the commands --------------------------------------------------------------------------------


def start(daemon: Daemon, ready: Callable[[], bool], seconds: float = 20) -> None:
    if daemon.pid() is None:
        daemon.start()
    if not wait(ready, seconds):
        raise ClusterError(f"{daemon.name} does not answer after {seconds:.0f} s: see {LOGS}")


def controller_answers() -> bool:
    return ask("scontrol ping").returncode == 0


def nodes_ready() -> bool:
    """All nodes there and usable; a state with * does not respond."""
    lines = ask("sinfo -h -N -o %N=%T").stdout.split()
    return {line.partition("=")[0] for line in lines} == set(NODES) and not any(
        word in line for line in lines for word in ("*", "down", "unk", "drain", "inval")
    )


def up(network: str | None) -> None:
    began = time.monotonic()
    check_machine()
    if MARKER.exists() and any(daemon.pid() for daemon in DAEMONS):
        running = "none" if os.path.ismount(NAMESPACE) else "host"
        if network not in (None, running):
            raise ClusterError(f"the cluster is up with network={running}: make cluster-down first")
        if all(daemon.pid() for daemon in DAEMONS) and controller_answers() and nodes_ready():
            return print("the cluster is up already")
    if not installed():
        install()
        print(f"installed in {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()
    prepare_state()
    write_config()
    if network == "none":
        make_namespace()
    start_all()
    print(f"the cluster is up after {time.monotonic() - began:.1f} s: try `sinfo`; logs in {LOGS}")


def start_all() -> None:
    start(MUNGE, lambda: listens(STATE / "munge" / "socket"))
    if not (STATE / "mariadb" / "data" / "mysql").exists():
        quick = ["--user=mysql", "--skip-test-db", "--auth-root-authentication-method=normal"]
        must(["mariadb-install-db", *DATABASE_OPTIONS, *quick])
    start(DATABASE, lambda: listens(DATABASE_SOCKET))
    start(ACCOUNTING, lambda: ask("sacctmgr -n list cluster").returncode == 0)
    if not (STATE / "accounts").exists():
        for line in ACCOUNTS:
            must([*inside(), "sacctmgr", "-i", *line.split()])
        (STATE / "accounts").touch()
    for slurmd in SLURMDS.values():
        if slurmd.pid() is None:
            slurmd.start()
    start(CONTROLLER, controller_answers)
    for node in NODES:  # a launch that failed while munged was dead has drained its node
        ask(f"scontrol update NodeName={node} State=RESUME")
    if not wait(nodes_ready, 45):
        raise ClusterError(f"not all nodes are ready: see `sinfo -R` and {LOGS}")


def down() -> None:
    check_machine()
    if not MARKER.exists():
        return print("no cluster is up")
    if CONTROLLER.pid() and (jobs := ask("squeue -h -o %A").stdout.split()):
        ask("scancel " + " ".join(jobs))
        wait(lambda: not ask("squeue -h -o %A").stdout, 10)
    CONTROLLER.stop()
    for node, slurmd in SLURMDS.items():
        slurmd.stop()
        cut_power(node)
    for daemon in (ACCOUNTING, DATABASE, MUNGE):
        daemon.stop()
    if os.path.ismount(NAMESPACE):
        must(["umount", str(NAMESPACE)])
    for name in CONFIGS:
        (ETC / name).unlink(missing_ok=True)
    HOSTS.write_text(HOSTS.read_text().replace(HOSTS_LINE, ""))
    shutil.rmtree(STATE)
    print("the cluster is gone; the packages stay installed")


def status() -> None:
    for daemon in DAEMONS:
        print(f"{daemon.name:10} {daemon.pid() or 'not running'}")
    print(f"{'network':10} {'none' if os.path.ismount(NAMESPACE) else 'host'}")


def start_node(node: str) -> None:
    need_cluster()
    if SLURMDS[node].pid() is None:
        SLURMDS[node].start()


def stop_node(node: str, kill: bool) -> None:
    need_cluster()
    cut_power(node) if kill else SLURMDS[node].stop()


def start_controller() -> None:
    need_cluster()
    start(CONTROLLER, controller_answers)


def stop_controller() -> None:
    need_cluster()
    CONTROLLER.stop()


def need_cluster() -> None:
    if not MARKER.exists():
        raise ClusterError("no cluster is up: make cluster-up")


def execute(command: list[str]) -> None:
    argv = [*inside(), *command]
    try:
        os.execvp(argv[0], argv)
    except OSError as exc:
        raise ClusterError(f"cannot run {argv[0]}: {exc.strerror}") from exc


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A real SLURM on this one machine, for the tests.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add = commands.add_parser("up", help="start it, or start again what is dead of it")
    add.add_argument("--network", choices=("host", "none"), help="none: only loopback")
    commands.add_parser("down", help="stop it and leave nothing behind but the packages")
    commands.add_parser("status", help="each daemon's process id")
    add = commands.add_parser("exec", help="run a command where the cluster's network is")
    add.add_argument("argv", nargs="+", metavar="-- ARGUMENT")
    add = commands.add_parser("stop-node", help="stop a slurmd; its jobs run on, unseen")
    add.add_argument("node", choices=NODES)
    add.add_argument("--kill", action="store_true", help="a power cut: SIGKILL to the jobs as well")
    commands.add_parser("start-node", help="start a slurmd").add_argument("node", choices=NODES)
    commands.add_parser("stop-controller", help="stop slurmctld")
    commands.add_parser("start-controller", help="start slurmctld and wait until it answers")
    return parser.parse_args()


def main() -> int:
    args = parse()
    try:
        if args.command == "exec":
            execute(args.argv)
        with one_at_a_time():
            match args.command:
                case "up":
                    up(args.network)
                case "down":
                    down()
                case "status":
                    status()
                case "start-node":
                    start_node(args.node)
                case "stop-node":
                    stop_node(args.node, args.kill)
                case "start-controller":
                    start_controller()
                case "stop-controller":
                    stop_controller()
    except ClusterError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
