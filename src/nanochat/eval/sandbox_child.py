"""The inside of the sandbox: limits itself, runs ./program.py, reports how that went.

    python -I -S -B sandbox_child.py REPORT_FD MEMORY_BYTES CPU_SECONDS      # by eval/sandbox.py

Imports nothing of this project, since it runs without site-packages. Reads program.py in its
folder; writes `passed`, or what stopped the program, to the file descriptor it was given.
"""

import ctypes
import os
import resource
import sys
import types
from typing import Any

FILE_BYTES = 2**20
OPEN_FILES = 64

# From <linux/sched.h>; os.unshare exists only from Python 3.12 on.
NEW_USER, NEW_PIDS, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
REFUSED = ("ctypes.", "os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.posix_spawn",
           "os.spawn", "os.system", "pty.spawn", "signal.pthread_kill", "socket.",
           "sqlite3.", "subprocess.Popen")  # fmt: skip
CHANGING = {"os.chflags", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename",
            "os.rmdir", "os.symlink", "os.truncate", "os.utime", "shutil.chown", "shutil.move",
            "shutil.rmtree"}  # fmt: skip
"""Events whose arguments are paths that are changed."""


def main() -> None:
    report, memory_bytes, cpu_seconds = (int(argument) for argument in sys.argv[1:])
    sys.argv = ["program.py"]
    os.environ.clear()
    if _leave_namespaces():
        _fork_and_wait()  # whoever comes first has number 1, and takes all others with it
    _limit(memory_bytes, cpu_seconds)
    verdict = _run("program.py")
    os.write(report, verdict.encode(errors="replace")[:200])
    os._exit(0)  # what the program left behind (threads, atexit) must not hold us


def _leave_namespaces() -> bool:
    """Gives up the network and other processes, where an ordinary user may."""
    flags = NEW_USER | NEW_PIDS | NEW_NETWORK
    return bool(ctypes.CDLL(None).unshare(flags) == 0)


def _fork_and_wait() -> None:
    """Returns in a child; this process waits for it and leaves."""
    child = os.fork()
    if child:
        os.closerange(3, OPEN_FILES)  # with the report, whose end the reader waits for
        os.waitpid(child, 0)
        os._exit(0)


def _limit(memory_bytes: int, cpu_seconds: int) -> None:
    for what, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, FILE_BYTES),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),  # the kernel exempts root; the audit hook does not
    ):
        resource.setrlimit(what, (limit, limit))


def _run(path: str) -> str:
    """`passed`, or the kind of exception that ended the program."""
    with open(path, encoding="utf-8") as file:
        source = file.read()
    # Not __main__: a demonstration under `if __name__ == "__main__"` is not part of the answer.
    program = types.ModuleType("program")
    sys.modules["program"] = program
    _refuse_more_than_computing()
    try:
        exec(compile(source, path, "exec"), vars(program))
    except BaseException as exc:
        return f"it raised {type(exc).__name__}"
    return "passed"


def _refuse_more_than_computing() -> None:
    here = os.path.realpath(".") + os.sep

    def is_outside(path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False  # an open file's number
        return not os.path.realpath(os.fsdecode(path)).startswith(here)

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(REFUSED):
            raise PermissionError(f"{event} is refused in the sandbox")
        changed = arguments if event in CHANGING else ()
        if event == "open" and arguments[2] & WRITING:
            changed = arguments[:1]
        if any(is_outside(path) for path in changed):
            raise PermissionError(f"{event} outside the sandbox is refused")

    sys.addaudithook(look)


main()
