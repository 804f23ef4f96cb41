"""Random numbers go on after a resume as if nothing had happened."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nanochat.errors import DamagedArtefact
from nanochat.train.random_state import random_pieces, restore_random, seed_everything

CPU = torch.device("cpu")
SOURCES = ["torch", "python", "numpy"]


@pytest.fixture(autouse=True)
def sources_are_as_before() -> Iterator[None]:
    """What other tests draw does not depend on this file."""
    before = random_pieces(CPU)
    yield
    restore_random(before, CPU)


def draws(device: torch.device = CPU) -> dict[str, list[float]]:
    """An odd number of Gaussians of each kind, so that one of a pair is always kept."""
    ones = torch.ones(64, device=device)
    return {
        "torch": [
            *torch.rand(5).tolist(),
            *torch.randn(17).tolist(),
            *torch.nn.functional.dropout(torch.ones(64), 0.5).tolist(),
        ],
        "python": [random.random(), *(random.gauss(0.0, 1.0) for _ in range(3))],
        "numpy": [*np.random.rand(3).tolist(), *(float(np.random.randn()) for _ in range(3))],
        "device": [
            *torch.rand(5, device=device).tolist(),
            *torch.nn.functional.dropout(ones, 0.5).tolist(),
        ],
    }


@pytest.mark.parametrize("drawn_before", [0, 1, 2, 1000])
def test_draws_after_a_restore_equal_those_after_the_capture(drawn_before: int) -> None:
    seed_everything(7, 0)
    for _ in range(drawn_before):
        draws()
    pieces = random_pieces(CPU)
    expected = draws()
    seed_everything(8, 1)
    restore_random(pieces, CPU)
    assert draws() == expected


def test_the_kept_half_of_a_gaussian_pair_is_restored(tmp_path: Path) -> None:
    """By way of a file, as in a checkpoint."""
    seed_everything(7, 0)
    random.gauss(0.0, 1.0), np.random.randn()
    save_file(random_pieces(CPU), tmp_path / "random.safetensors")
    expected = random.gauss(0.0, 1.0), np.random.randn(), random.random(), np.random.rand()
    seed_everything(7, 0)
    restore_random(load_file(tmp_path / "random.safetensors"), CPU)
    assert (random.gauss(0.0, 1.0), np.random.randn(), random.random(), np.random.rand()) == (
        expected
    )


def test_no_gaussian_is_kept_where_none_was() -> None:
    seed_everything(7, 0)
    pieces = random_pieces(CPU)
    expected = random.gauss(0.0, 1.0), np.random.randn()
    restore_random(pieces, CPU)  # now one of each pair is kept
    random.gauss(0.0, 1.0), np.random.randn()
    restore_random(pieces, CPU)
    assert (random.gauss(0.0, 1.0), np.random.randn()) == expected


def test_a_capture_changes_no_draw() -> None:
    seed_everything(7, 0)
    expected = draws()
    seed_everything(7, 0)
    random_pieces(CPU)
    assert draws() == expected


@pytest.mark.parametrize("source", SOURCES)
def test_equal_seeds_and_ranks_draw_alike_and_others_do_not(source: str) -> None:
    drawn = set()
    for seed, rank in [(1, 0), (0, 1), (1, 1), (2, 0), (2**31 - 1, 65_535)]:
        seed_everything(seed, rank)
        drawn.add(tuple(draws()[source]))
    assert len(drawn) == 5
    seed_everything(1, 0)
    assert tuple(draws()[source]) in drawn


def test_the_seeds_follow_the_documented_formula() -> None:
    seed_everything(42, 3)
    words = np.random.SeedSequence([42, 3]).generate_state(3, np.uint64)
    assert torch.initial_seed() == int(words[0])
    assert random.random() == random.Random(int(words[1])).random()


def test_sources_that_a_checkpoint_lacks_or_has_too_many_are_passed_over() -> None:
    """Of a GPU resumed on a processor, and of a version that kept fewer."""
    seed_everything(7, 0)
    pieces = random_pieces(CPU)
    del pieces["numpy"]
    expected = draws()
    seed_everything(7, 0)
    np.random.rand()
    own = np.random.get_state()[1:3]
    restore_random({**pieces, "cuda": torch.zeros(16, dtype=torch.uint8)}, CPU)
    assert all(np.array_equal(a, b) for a, b in zip(own, np.random.get_state()[1:3], strict=True))
    assert draws()["torch"] == expected["torch"]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("damage", ["short", "dtype", "value"])
def test_a_damaged_state_is_refused_in_a_sentence_that_names_it(source: str, damage: str) -> None:
    pieces = random_pieces(CPU)
    good = pieces[source]
    if damage == "short":
        pieces[source] = good[:-1].clone()
    elif damage == "dtype":
        pieces[source] = good.float()
    else:
        pieces[source] = torch.full_like(good, 255 if source == "torch" else -1)
    with pytest.raises(DamagedArtefact, match=f"random numbers of {source} cannot be restored"):
        restore_random(pieces, CPU)


@pytest.mark.parametrize("source", ["python", "numpy"])
def test_a_word_of_a_twister_that_is_out_of_range_is_refused(source: str) -> None:
    pieces = random_pieces(CPU)
    pieces[source][7] = -1
    with pytest.raises(DamagedArtefact, match=f"random numbers of {source} cannot be restored"):
        restore_random(pieces, CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_draws_on_a_gpu_are_restored() -> None:
    gpu = torch.device("cuda", torch.cuda.current_device())
    seed_everything(7, 0)
    draws(gpu)
    pieces = random_pieces(gpu)
    expected = draws(gpu)
    seed_everything(8, 1)
    restore_random(pieces, gpu)
    assert draws(gpu) == expected
