from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data.loader import RowLoader, permuted, validation_batches
from nanochat.data.rows import padding_id, write_rows
from nanochat.errors import DamagedArtefact

T = 7
BOS = 9000
PAD = padding_id(np.uint16)
SIZES = (5, 1, 17)


def write_numbered_rows(folder: Path, sizes: tuple[int, ...]) -> list[Path]:
    """Files whose row number r, counted over all of them, holds r, 1000+r, 2000+r, ..."""
    first = 0
    files = []
    for number, size in enumerate(sizes):
        rows_N = np.arange(first, first + size)
        rows_NC = (rows_N[:, None] + 1000 * np.arange(T + 1)).astype(np.uint16)
        write_rows(folder, f"shard_{number:05d}", rows_NC, None, {"tokenizer": "same"})
        files.append(folder / f"shard_{number:05d}.npy")
        first += size
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_numbered_rows(tmp_path_factory.mktemp("rows"), SIZES)


def loader_of(files: list[Path], rows_per_step: int = 4, seed: int = 1) -> RowLoader:
    return RowLoader(files, rows_per_step, seed, bos_id=BOS)


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**70), epoch=st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_permutation_reaches_every_number_once(n: int, seed: int, epoch: int) -> None:
    assert np.sort(permuted(np.arange(n), n, seed, epoch)).tolist() == list(range(n))


@given(n=st.integers(1, 2**40), index=st.integers(0, 2**40), seed=st.integers(0, 100))
@settings(deadline=None)
def test_one_number_is_permuted_as_in_company(n: int, index: int, seed: int) -> None:
    indices = np.array([index % n, 0, n - 1])
    alone = permuted(indices[:1], n, seed, 3)
    assert 0 <= alone[0] < n
    assert alone[0] == permuted(indices, n, seed, 3)[0]


def test_permutation_is_random_enough() -> None:
    n = 5000
    orders = [permuted(np.arange(n), n, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for i, order in enumerate(orders):
        assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 0.05
        assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.05
        for other in orders[:i]:
            assert (order == other).sum() < 12  # one on average


@given(rows_per_step=st.integers(1, 60), seed=st.integers(0, 50))
@settings(max_examples=30, deadline=None)
def test_every_row_is_seen_once_an_epoch(rows_per_step: int, seed: int, files: list[Path]) -> None:
    loader = loader_of(files, rows_per_step, seed)
    assert loader.n_rows == sum(SIZES)
    steps = range(-(-3 * loader.n_rows // rows_per_step))
    stream = np.concatenate([loader.rows_of_step(step) for step in steps])
    for epoch in range(3):
        rows = stream[epoch * loader.n_rows : (epoch + 1) * loader.n_rows]
        assert np.sort(rows).tolist() == list(range(loader.n_rows))


@given(
    rows_per_step=st.integers(1, 30),
    device_rows=st.integers(1, 8),
    world_size=st.integers(1, 6),
    step=st.integers(0, 10**9),
)
@settings(max_examples=50, deadline=None)
def test_ranks_together_see_the_same_rows_for_any_world_size(
    rows_per_step: int, device_rows: int, world_size: int, step: int, files: list[Path]
) -> None:
    loader = loader_of(files, rows_per_step)
    seen, shares = [], []
    for rank in range(world_size):
        batches = list(loader.micro_batches(step, device_rows, rank, world_size))
        assert all(1 <= len(inputs_BT) <= device_rows for inputs_BT, _ in batches)
        rows = [row for inputs_BT, _ in batches for row in inputs_BT[:, 0].tolist()]
        shares.append(len(rows))
        seen += rows
    assert seen == loader.rows_of_step(step).tolist()
    assert max(shares) - min(shares) <= 1


def test_batches_are_the_rows_shifted_by_one(files: list[Path]) -> None:
    loader = loader_of(files, rows_per_step=23)
    ((inputs_BT, targets_BT),) = loader.micro_batches(0, device_rows=23)
    rows_B = torch.from_numpy(loader.rows_of_step(0))
    assert inputs_BT.dtype == targets_BT.dtype == torch.int64
    assert inputs_BT.is_contiguous() and targets_BT.is_contiguous()
    assert torch.equal(inputs_BT, rows_B[:, None] + 1000 * torch.arange(T))
    assert torch.equal(targets_BT, inputs_BT + 1000)


def test_seeds_give_different_orders(files: list[Path]) -> None:
    orders = {tuple(loader_of(files, 23, seed).rows_of_step(0).tolist()) for seed in range(5)}
    assert len(orders) == 5


def test_padding_is_bos_as_input_and_nothing_as_target(tmp_path: Path) -> None:
    rows_NC = np.array([[BOS, 1, 2, PAD, PAD]], dtype=np.uint16)
    write_rows(tmp_path, "shard_00000", rows_NC, None, {})
    ((inputs_BT, targets_BT),) = loader_of([tmp_path / "shard_00000.npy"], 1).micro_batches(0, 1)
    assert inputs_BT.tolist() == [[BOS, 1, 2, BOS]]
    assert targets_BT.tolist() == [[1, 2, -1, -1]]


def test_masked_tokens_are_inputs_but_no_targets(tmp_path: Path) -> None:
    rows_NC = np.array([[BOS, 1, 2, 3, PAD]], dtype=np.uint16)
    masks_NC = np.array([[1, 0, 1, 0, 1]], dtype=np.uint8)
    write_rows(tmp_path, "shard_00000", rows_NC, masks_NC, {})
    ((inputs_BT, targets_BT),) = loader_of([tmp_path / "shard_00000.npy"], 1).micro_batches(0, 1)
    assert inputs_BT.tolist() == [[BOS, 1, 2, 3]]
    assert targets_BT.tolist() == [[-1, 2, -1, -1]]


@pytest.mark.parametrize("device_rows", [1, 4, 100])
def test_validation_reads_the_first_rows_in_order(device_rows: int, files: list[Path]) -> None:
    batches = list(validation_batches(files[2], max_rows=10, device_rows=device_rows, bos_id=BOS))
    rows = [row for inputs_BT, _ in batches for row in inputs_BT[:, 0].tolist()]
    assert rows == list(range(6, 16))
    everything = validation_batches(files[2], 10**6, device_rows, BOS)
    assert sum(len(inputs_BT) for inputs_BT, _ in everything) == 17


@pytest.mark.parametrize("ranks", [1, 3, 4, 12])
def test_ranks_share_the_validation_rows(ranks: int, files: list[Path]) -> None:
    shares = [list(validation_batches(files[2], 10, 2, BOS, rank, ranks)) for rank in range(ranks)]
    rows = [row for share in shares for inputs_BT, _ in share for row in inputs_BT[:, 0].tolist()]
    assert rows == list(range(6, 16))


def test_files_of_different_tokenizers_do_not_mix(tmp_path: Path) -> None:
    files = write_numbered_rows(tmp_path, (3,))
    rows_NC = np.zeros((3, T + 1), dtype=np.uint16)
    write_rows(tmp_path, "shard_00001", rows_NC, None, {"tokenizer": "another"})
    with pytest.raises(DamagedArtefact, match=r"shard_00001.npy has tokenizer another"):
        loader_of([*files, tmp_path / "shard_00001.npy"])
