"""A process by an identity that no other one has, and whether it has ended.

    record(Process.own())
    if process.is_near(Process.own()) and process.has_ended(): ...

For processes that know each other through files on a shared disk. Reads /proc; where a system has
none, no process is near.
"""

import os
import time
from pathlib import Path
from typing import NamedTuple, Self


class Process(NamedTuple):
    """A process, told from every other one of its machine and of others."""

    boot: str
    """Identity of the machine's last start; empty where the system tells none."""
    namespace: str
    """The container that its number is of."""
    pid: int
    started: str
    """In clock ticks since the machine's start: a later process with the same number differs."""

    @classmethod
    def own(cls) -> Self:
        """This process."""
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            namespace = os.readlink("/proc/self/ns/pid")
        except OSError:
            boot, namespace = "", ""
        return cls(boot, namespace, os.getpid(), _state_and_start(os.getpid())[1])

    def is_near(self, other: "Process") -> bool:
        """Whether both are on one machine and in one container, so that each can see the other."""
        return self.boot != "" and (self.boot, self.namespace) == (other.boot, other.namespace)

    def has_ended(self) -> bool:
        """True where that is certain. Call it for a process that is near."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's
            pass
        state, started = _state_and_start(self.pid)
        is_another = "" not in (started, self.started) and started != self.started
        return state == "ended" or is_another


def own_start() -> float:
    """When this process began, in seconds since 1970; now, where the system hides it."""
    _, started = _state_and_start(os.getpid())
    if not started:
        return time.time()
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.time() - since_boot + int(started) / os.sysconf("SC_CLK_TCK")


def _state_and_start(pid: int) -> tuple[str, str]:
    """State and start of a process; empty where the system hides them."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "", ""
    fields = stat.rpartition(")")[2].split()
    # Killed, and not yet noticed by its parent; with a thread left it may still be writing.
    ended = fields[0] in "ZX" and fields[17] == "1"
    return "ended" if ended else fields[0], fields[19]
