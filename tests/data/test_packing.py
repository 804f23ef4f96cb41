from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data.packing import Ints, best_fit_decreasing, lay_rows, pack_conversations, plan_rows
from nanochat.data.rows import Ids, padding_id

BOS = 60_000
PAD = padding_id(np.uint16)

lengths = st.lists(st.integers(0, 200), max_size=60)


def documents_in(rows_NC: Ids, counts: list[int]) -> list[list[int]]:
    """The tokens of every document, found again through the numbers written into them."""
    found: list[list[int]] = [[] for _ in counts]
    owners = np.repeat(np.arange(len(counts)), counts)
    for token in np.sort(rows_NC[(rows_NC != BOS) & (rows_NC != PAD)]).tolist():
        found[owners[token]].append(token)
    return found


def pack(counts: list[int], capacity: int) -> Ids:
    """Rows of documents whose tokens are 0, 1, 2, ... over the whole shard."""
    tokens = np.arange(sum(counts), dtype=np.uint16)
    return lay_rows(plan_rows(counts, capacity), tokens, capacity, BOS)


@given(counts=lengths, capacity=st.integers(2, 80))
def test_every_token_is_packed_once(counts: list[int], capacity: int) -> None:
    rows_NC = pack(counts, capacity)
    tokens = np.sort(rows_NC[(rows_NC != BOS) & (rows_NC != PAD)])
    assert tokens.tolist() == list(range(sum(counts)))


@given(counts=lengths, capacity=st.integers(2, 80))
def test_every_piece_starts_with_bos_and_runs_in_order(counts: list[int], capacity: int) -> None:
    rows_NC = pack(counts, capacity)
    starts = set((np.cumsum(counts) - counts).tolist()) if counts else set()
    for row in rows_NC.tolist():
        assert row[0] == BOS
        for before, token in pairwise(row):
            if token not in (BOS, PAD) and before != BOS:
                assert token == before + 1
                assert token not in starts  # a new document would have had its own BOS


@given(counts=lengths, capacity=st.integers(2, 80))
def test_padding_is_only_at_the_end_of_a_row(counts: list[int], capacity: int) -> None:
    padded_NC = pack(counts, capacity) == PAD
    assert (np.diff(padded_NC.astype(int), axis=1) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(
    capacity=st.sampled_from([257, 513, 2049]),
    low=st.floats(0.01, 1.2),
    spread=st.floats(0, 1.5),
    seed=st.integers(0, 1000),
)
def test_padding_is_under_half_a_percent_for_any_lengths(
    capacity: int, low: float, spread: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(int(low * capacity) + 1, int((low + spread) * capacity) + 3, 50_000)
    counts = counts[: np.searchsorted(np.cumsum(counts), 500 * capacity) + 1]
    plan = plan_rows(counts, capacity)
    cells = plan.n_rows * capacity
    used = counts.sum() + len(plan.start_P)
    assert (cells - used) / cells < 0.005


@given(counts=lengths.filter(any), capacity=st.integers(2, 80))
def test_planning_twice_gives_the_same_rows(counts: list[int], capacity: int) -> None:
    assert (pack(counts, capacity) == pack(counts, capacity)).all()


def test_documents_that_fit_are_not_cut() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 200, 20_000)
    assert len(plan_rows(counts, 257).start_P) == 20_000


def test_long_document_continues_in_further_rows() -> None:
    rows_NC = pack([25], 11)
    assert rows_NC.tolist() == [
        [BOS, *range(10)],
        [BOS, *range(10, 20)],
        [BOS, *range(20, 25), *[PAD] * 5],
    ]


def test_first_rows_are_a_sample_of_the_shard() -> None:
    rng = np.random.default_rng(1)
    counts = rng.permutation(np.repeat([224, 31, 128, 127], 1000))  # in pairs, they fill rows
    plan = plan_rows(counts, 257)
    assert plan.n_rows == 2000
    first = plan.count_P[plan.row_P < 400]
    assert 150 < (first == 224).sum() < 250


def plain_best_fit(sizes: list[int], capacity: int) -> list[int]:
    """Room left in each row, by the textbook's loop over pieces and rows."""
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms[rooms.index(min(fitting))] -= size
        else:
            rooms.append(capacity - size)
    return sorted(rooms)


@given(sizes=st.lists(st.integers(1, 50), max_size=80), capacity=st.integers(50, 100))
def test_counting_gives_the_rows_of_the_textbook(sizes: list[int], capacity: int) -> None:
    row_P, n_rows = best_fit_decreasing(np.array(sizes, dtype=np.int64), capacity)
    used = np.bincount(row_P, weights=sizes, minlength=n_rows)
    assert sorted((capacity - used).astype(int).tolist()) == plain_best_fit(sizes, capacity)


conversations = st.lists(
    st.integers(0, 40).flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(1, 99), min_size=n, max_size=n),
            st.lists(st.integers(0, 1), min_size=n, max_size=n),
        )
    ),
    max_size=30,
)


@given(items=conversations, sequence_len=st.integers(1, 60))
def test_conversations_stay_whole_with_their_masks(
    items: list[tuple[list[int], list[int]]], sequence_len: int
) -> None:
    capacity = sequence_len + 1
    marked = [([100 + i, *ids], [0, *mask]) for i, (ids, mask) in enumerate(items)]
    packed = pack_conversations(marked, sequence_len, vocab_size=300)
    found = {}
    for row, mask in zip(packed.rows_NC.tolist(), packed.masks_NC.tolist(), strict=True):
        starts = [cell for cell, token in enumerate(row) if 100 <= token < 300]
        assert starts[0] == 0
        ends = [*starts[1:], row.index(PAD) if PAD in row else capacity]
        for start, end in zip(starts, ends, strict=True):
            found[row[start] - 100] = (row[start:end], mask[start:end])
        assert not any(mask[ends[-1] :])
    expected = [(ids[:capacity], mask[:capacity]) for ids, mask in marked]
    assert [found[i] for i in range(len(marked))] == expected
    assert packed.truncated == sum(len(ids) > capacity for ids, _ in marked)


def test_empty_conversations_are_left_out() -> None:
    packed = pack_conversations([([], []), ([1, 2], [0, 1])], 7, vocab_size=300)
    assert packed.rows_NC.tolist() == [[1, 2, *[PAD] * 6]]


def test_shard_of_empty_documents_has_no_rows() -> None:
    counts: Ints = np.zeros(3, dtype=np.int64)
    assert plan_rows(counts, 10).n_rows == 0


@pytest.mark.parametrize("share", [0.5, 0.6, 0.9])
def test_lengths_that_do_not_fit_together_are_cut_to_fill_rows(share: float) -> None:
    counts = np.full(2000, int(share * 513) + 1)
    plan = plan_rows(counts, 513)
    assert len(plan.start_P) > 2000
    assert plan.count_P.sum() == counts.sum()
