"""What fits: recognising out-of-memory, what is said before a start, what is remembered."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nanochat.errors import OutOfMemory
from nanochat.model.gpt_config import GPTConfig
from nanochat.model.memory import memory_plan, usable
from nanochat.train.fitting import Fit, before_start, is_out_of_memory, key_of

GIB = 2**30
SHAPE = GPTConfig.from_depth(20)
PLAN = memory_plan(SHAPE, 8, 2, "cuda", compiled=True)
CARD = int(79.1 * GIB)

STARVED = """
import resource, sys, torch
from nanochat.model.gpt import GPT
from nanochat.model.gpt_config import GPTConfig
from nanochat.train.fitting import is_out_of_memory

torch.set_num_threads(1)
shape = GPTConfig.from_depth(2, vocab_size=512, sequence_len=512, aspect_ratio=64)
model = GPT.fresh(shape, torch.device("cpu"), seed=1)
rows = lambda n: torch.zeros(n, shape.sequence_len, dtype=torch.int64)
model.loss_sum(rows(1), rows(1)).backward()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
try:
    model.loss_sum(rows(256), rows(256)).backward()
except (RuntimeError, MemoryError) as exc:
    assert is_out_of_memory(exc), repr(exc)
    print("out of memory:", str(exc).splitlines()[0])
model.loss_sum(rows(1), rows(1)).backward()
print("went on with one row")
"""


def test_a_processor_that_runs_out_of_memory_is_recognised_and_goes_on() -> None:
    done = subprocess.run([sys.executable, "-c", STARVED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("out of memory:")
    assert done.stdout.endswith("went on with one row\n")


@pytest.mark.parametrize(
    "exc",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
    ],
)
def test_every_way_of_running_out_of_memory_is_recognised(exc: Exception) -> None:
    assert is_out_of_memory(exc)


@pytest.mark.parametrize(
    "exc",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("shape '[2, 3]' is invalid for input of size 7"),
        torch.distributed.DistBackendError("NCCL error: Cuda failure 2 'out of memory'"),
        ValueError("out of memory"),
        OutOfMemory("not even one row fits: out of memory"),
    ],
)
def test_other_failures_are_not_taken_for_it(exc: Exception) -> None:
    assert not is_out_of_memory(exc)


def test_rows_that_fit_are_kept_and_the_sentence_adds_up() -> None:
    start = before_start(PLAN, CARD, rows=32)
    assert start == (
        32,
        "memory: weights 2.5, gradients 2.5, optimizer 0.5, activations of 32 rows 62.3, "
        "copies 0.7, loss 0.6: 69.1 of 79.1 GiB",
    )


def test_rows_that_do_not_fit_are_halved_and_the_sentence_says_so() -> None:
    start = before_start(PLAN, 40 * GIB, rows=32)
    assert start.rows == 8
    assert start.sentence.endswith("22.3 of 40.0 GiB (32 rows would take 69.1)")


def test_some_memory_is_left_alone() -> None:
    exactly = PLAN.total(32)
    assert before_start(PLAN, exactly, rows=32).rows == 16
    assert usable(exactly) < exactly


def test_where_the_plan_gives_no_row_a_chance_one_is_tried() -> None:
    start = before_start(PLAN, PLAN.total(1) - 1, rows=32)
    assert start.rows == 1
    assert start.sentence.endswith("GiB; it may well run out of memory")


def test_weights_that_do_not_fit_are_refused_with_advice() -> None:
    with pytest.raises(OutOfMemory, match=r"take 5\.4 GiB on each of 8 ranks, but a rank has 4\.0"):
        before_start(PLAN, 4 * GIB, rows=32)
    alone = memory_plan(SHAPE, 1, 2, "cuda", compiled=True)
    with pytest.raises(OutOfMemory, match=r"larger devices, or more of them$"):
        before_start(alone, 8 * GIB, rows=32)


def fit(path: Path, rows: int = 32, key: str = "this gpu") -> Fit:
    return Fit.of(path, key, PLAN, CARD, rows)


def test_what_was_left_is_where_the_next_start_begins(tmp_path: Path) -> None:
    path = tmp_path / "device_rows.json"
    first = fit(path)
    assert first.rows == 32 and not path.exists()
    first.remember(8)
    assert Fit.load(path, "this gpu") == 8
    again = fit(path)
    assert again.rows == 8
    assert again.sentence.endswith("; device_rows.json says that 32 rows did not fit")


@pytest.mark.parametrize(("asked", "begins_with"), [(4, 4), (8, 8), (64, 8)])
def test_what_was_left_is_a_ceiling_whatever_is_asked_for(
    tmp_path: Path, asked: int, begins_with: int
) -> None:
    fit(tmp_path / "rows.json").remember(8)
    assert fit(tmp_path / "rows.json", asked).rows == begins_with


def test_what_was_learned_holds_for_its_own_key_only(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    fit(path, key="a").remember(8)
    fit(path, key="b").remember(4)
    assert [fit(path, key=key).rows for key in "abc"] == [8, 4, 32]


def test_keys_differ_where_something_matters_and_are_words() -> None:
    key = key_of("NVIDIA H100", CARD, SHAPE, 8, compiled=True)
    assert key.startswith("NVIDIA H100, 79 GiB, 8 ranks, compiled, model ")
    others = {
        key_of("NVIDIA A100", CARD, SHAPE, 8, True),
        key_of("NVIDIA H100", 40 * GIB, SHAPE, 8, True),
        key_of("NVIDIA H100", CARD, GPTConfig.from_depth(12), 8, True),
        key_of("NVIDIA H100", CARD, SHAPE, 1, True),
        key_of("NVIDIA H100", CARD, SHAPE, 8, False),
    }
    assert len(others - {key}) == 5


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b'{"this gpu": 8}', b'{"this gpu": {"rows": "8"}}',
     b'{"this gpu": {"rows": 0}}', b'{"this gpu": {"rows": true}}', b'{"this gpu": {}}'],
)  # fmt: skip
def test_a_damaged_file_is_only_a_hint_that_is_ignored(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    found = fit(path)
    assert found.rows == 32
    assert "only a hint, and is ignored" in capsys.readouterr().err
    found.remember(16)
    assert json.loads(path.read_text()) == {"this gpu": {"rows": 16}}


def test_other_ranks_keep_quiet_about_a_damaged_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.json").write_text("{")
    assert Fit.load(tmp_path / "rows.json", "this gpu", note=lambda sentence: None) is None
    assert capsys.readouterr().err == ""


def test_a_full_disk_costs_the_hint_and_nothing_else(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = fit(small_disk / "rows.json")
    filler = small_disk / "filler"
    with pytest.raises(OSError), open(filler, "wb", buffering=0) as handle:
        while True:
            handle.write(bytes(4096))
    found.remember(8)
    assert "will have to find again that 8 rows fit" in capsys.readouterr().err
