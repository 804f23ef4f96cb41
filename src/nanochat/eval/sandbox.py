"""Runs a program that a model wrote, with its tests, apart from everything else.

    program = program_from(prompt, answer, checks)     # of an item of humaneval
    run_program(program, seconds=5.0)                  # Verdict(passed=True, reason="passed")

The program gets a fresh Python process of its own (see eval/sandbox_child.py) in an empty temporary
folder: no environment, no input, output thrown away, no site-packages, limited memory, processor
time and file size, and where the kernel lets an ordinary user do so, no network and process numbers
of its own. After its time it is killed with every process it started. In that process, Python's
audit events refuse what a program has no business with: starting or killing processes, sockets,
ctypes, writing or deleting outside the folder.

That stops accidents: it is not a security boundary. A program that means to get out can: it may
read every file that the user may read, and native code is not audited. What it reports of itself is
believed. Do not run a stranger's model here as a user with something to lose.

Writes only into the temporary folder, which it removes.
"""

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CHILD = Path(__file__).with_name("sandbox_child.py")
MEMORY_BYTES = 512 * 2**20
PASSED = "passed"
LONGEST_REASON = 200

CODE_BLOCK = re.compile(r"```[^\n`]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Verdict:
    """Whether a program ran to the end of its tests, and if not, what stopped it."""

    passed: bool
    reason: str


def program_from(prompt: str, answer: str, checks: str) -> str:
    """The program of an answer to `prompt`, the head of a function, followed by its tests.

    The code is the first ``` block of the answer, else all of it. It goes on from the whole prompt:
    so it may be a function's body, or the whole function, which then replaces the prompt's empty
    one; imports and helpers of the prompt are there in both cases.
    """
    block = CODE_BLOCK.search(answer)
    return "\n".join([prompt, block[1] if block else answer, "", checks])


def run_program(program: str, seconds: float = 5.0) -> Verdict:
    """Runs `program` for at most `seconds`: it passes if it gets to its end.

    An exit, of whatever status, is no end. Takes some 50 ms beside the program's own time, and may
    be called from several threads at once.
    """
    with tempfile.TemporaryDirectory(prefix="nanochat-", ignore_cleanup_errors=True) as folder:
        Path(folder, "program.py").write_text(program, encoding="utf-8", errors="replace")
        reader, writer = os.pipe()
        try:
            process = _start(folder, writer, seconds)
            try:
                said = _wait(reader, seconds)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        finally:
            os.close(reader)
    return Verdict(said == PASSED, said)


def _start(folder: str, writer: int, seconds: float) -> subprocess.Popen[bytes]:
    """The child with the pipe's end that it reports to; that end is closed here."""
    # A Python that an environment module provides may not start without its libraries' path.
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    arguments = [str(writer), str(MEMORY_BYTES), str(int(seconds) + 1)]
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(CHILD), *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(writer,),
            start_new_session=True,
        )
    finally:
        os.close(writer)


def _wait(reader: int, seconds: float) -> str:
    """What the child reports, or why it did not."""
    if not select.select([reader], [], [], seconds)[0]:
        return f"no end after {seconds:g} s"
    said = os.read(reader, LONGEST_REASON).decode(errors="replace")
    return said or "it ended before its tests did"
