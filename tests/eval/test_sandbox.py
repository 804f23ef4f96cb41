"""Programs that a model might write, run apart: none may pass wrongly, hang, or leave a trace."""

import json
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nanochat.eval.sandbox import program_from, run_program

PROBLEMS = [
    (
        'def double(x: int) -> int:\n    """Twice x."""\n',
        "    return 2 * x\n",
        "def check(candidate):\n    assert candidate(4) == 8\n\ncheck(double)\n",
    ),
    (
        'from typing import List\n\ndef total(xs: List[int]) -> int:\n    """Sum of xs."""\n',
        "    result = 0\n    for x in xs:\n        result += x\n    return result\n",
        "def check(candidate):\n    assert candidate([1, 2, 3]) == 6\n\ncheck(total)\n",
    ),
    (
        "import math\n\ndef helper(x):\n    return math.floor(x)\n\n"
        'def whole(x: float) -> bool:\n    """Whether x is whole. Use helper."""\n',
        "    return helper(x) == x\n",
        "def check(f):\n    assert f(2.0) and not f(2.5) and helper(1.5) == 1\n\ncheck(whole)\n",
    ),
]


def head_of(prompt: str) -> str:
    """The prompt from its last function on, as a model would write it again."""
    return prompt[prompt.rindex("def ") :]


@pytest.mark.parametrize(("prompt", "solution", "checks"), PROBLEMS)
def test_right_solution_passes_in_every_form(prompt: str, solution: str, checks: str) -> None:
    whole = head_of(prompt) + solution
    for answer in (
        solution,
        prompt + solution,
        whole,
        f"Here it is:\n\n```python\n{whole}```\nIt works.\n```\nnot this\n```",
        f"```\n{whole}",
        f"{whole}\nif __name__ == '__main__':\n    print(input())\n",
    ):
        verdict = run_program(program_from(prompt, answer, checks), seconds=20)
        assert verdict.passed, (answer, verdict)


@pytest.mark.parametrize(("prompt", "solution", "checks"), PROBLEMS)
def test_wrong_and_empty_solutions_do_not_pass(prompt: str, solution: str, checks: str) -> None:
    for answer in ("", "I do not know.", "    return None\n", solution[: len(solution) // 2]):
        assert not run_program(program_from(prompt, answer, checks), seconds=20).passed


def test_every_canonical_solution_of_humaneval_passes(shared_data: Path) -> None:
    lines = (shared_data / "eval" / "humaneval" / "HumanEval.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    programs = [
        program_from(row["prompt"], start + row["canonical_solution"], checks)
        for row in rows
        for checks in [f"{row['test']}\ncheck({row['entry_point']})"]
        for start in ("", row["prompt"])
    ]
    with ThreadPoolExecutor(2) as pool:
        verdicts = list(pool.map(lambda program: run_program(program, 30), programs))
    assert len(verdicts) == 2 * 164
    assert [verdict.reason for verdict in verdicts if not verdict.passed] == []


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import sys\nsys.exit(0)", "SystemExit"),
        ("raise SystemExit", "SystemExit"),
        ("import os\nos._exit(0)", "ended before its tests"),
        ("import os\nos.abort()", "ended before its tests"),
        ("x = [0] * 10**9", "MemoryError"),
        ("def f():\n    f()\nf()", "RecursionError"),
        ("def f(:", "SyntaxError"),
        ("\0", "Error"),
        ("assert 1 == 2", "AssertionError"),
        ("open('large', 'w').write('x' * 10**8)", "OSError"),
    ],
)
def test_what_stops_before_the_end_does_not_pass(program: str, reason: str) -> None:
    verdict = run_program(f"{program}\n", seconds=20)
    assert not verdict.passed
    assert reason in verdict.reason


def test_endless_loop_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    verdict = run_program("while True:\n    pass", seconds=0.5)
    assert (verdict.passed, verdict.reason) == (False, "no end after 0.5 s")
    assert processes_below(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_program_that_catches_everything_is_ended() -> None:
    program = "while True:\n    try:\n        while True: pass\n    except BaseException: pass\n"
    assert run_program(program, seconds=0.5).reason == "no end after 0.5 s"


@pytest.mark.parametrize(
    "program",
    [
        "import os\nwhile True:\n    os.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.system('true')",
        "import os\nos.execv('/bin/true', ['true'])",
        "import multiprocessing as m\np = m.get_context('fork').Process(target=int)\np.start()",
        "import os\nos.kill(os.getppid(), 9)",
        "import socket\nsocket.create_connection(('127.0.0.1', 9))",
        "import ctypes\nctypes.CDLL(None)",
    ],
)
def test_processes_sockets_and_native_code_are_refused(program: str) -> None:
    assert run_program(program, seconds=20).reason == "it raised PermissionError"


@pytest.mark.parametrize(
    "statement",
    [
        "open({file!r}, 'a')",
        "open({file!r}, 'r+b')",
        "import os\nos.open({file!r}, os.O_RDWR)",
        "import pathlib\npathlib.Path({file!r}).write_text('')",
        "import pathlib\npathlib.Path({file!r}).unlink()",
        "import os\nos.rename({file!r}, 'mine')",
        "import os\nos.symlink({folder!r}, 'link')\nopen('link/new', 'w')",
        "import shutil\nshutil.rmtree({folder!r})",
        "open('../new', 'w')",
    ],
)
def test_files_outside_the_folder_are_not_changed(statement: str, tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("data")
    program = statement.format(file=str(file), folder=str(tmp_path))
    assert run_program(program, seconds=20).reason == "it raised PermissionError"
    assert file.read_text() == "data"
    assert list(tmp_path.iterdir()) == [file]


def test_files_in_its_own_folder_are_a_programs_own_and_vanish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = """
import os
os.mkdir("sub")
with open("sub/file", "w") as file:
    file.write("text")
os.rename("sub/file", "file")
assert open("file").read() == "text"
os.remove("file")
os.chmod("sub", 0)
"""
    assert run_program(program, seconds=20).passed
    assert list(tmp_path.iterdir()) == []


def test_program_sees_no_environment_no_packages_and_none_of_our_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET", "token")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    program = """
import os, sys
assert not os.environ
assert sys.argv == ["program.py"]
assert os.listdir() == ["program.py"]
assert "conftest" not in sys.modules
try:
    import torch
except ImportError:
    pass
else:
    raise AssertionError
try:
    import test_sandbox
except ImportError:
    pass
else:
    raise AssertionError
"""
    assert run_program(program, seconds=20).passed


def test_nothing_can_be_read_from_our_standard_input() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"a secret\n")
    ours = os.dup(0)
    os.dup2(reader, 0)
    try:
        verdict = run_program("input()", seconds=20)
    finally:
        os.dup2(ours, 0)
        for descriptor in (ours, reader, writer):
            os.close(descriptor)
    assert verdict.reason == "it raised EOFError"


def test_output_without_end_reaches_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_program("import sys\nprint('x' * 10**7)\nsys.stderr.write('y' * 10**7)", 20).passed
    assert capfd.readouterr() == ("", "")


def test_network_and_processes_are_its_own_where_the_kernel_lets_us() -> None:
    command = ["unshare", "--user", "--net", "--pid", "--fork", "true"]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("needs user namespaces")
    ours = os.readlink("/proc/self/ns/net")
    program = f"import os\nassert os.getpid() == 1 and os.readlink('/proc/self/ns/net') != {ours!r}"
    assert run_program(program, seconds=20).passed


def test_many_programs_run_beside_each_other() -> None:
    programs = ["assert True", "assert False"] * 8
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(lambda program: run_program(program, 60), programs))
    assert [verdict.passed for verdict in verdicts] == [True, False] * 8


def processes_below(folder: Path) -> list[str]:
    """Processes whose working folder lies, or lay, in `folder`."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith(str(folder)):
            found.append(target)
    return found
