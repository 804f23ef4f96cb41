"""Best-fit-decreasing: which piece of which document goes into which row.

    plan = plan_rows(token_counts, capacity=T + 1)      # documents may be cut, none loses a token
    rows = lay_rows(plan, tokens, capacity, bos_id, np.uint16)
    packed = pack_conversations([(ids, mask), ...], T, vocab_size)      # never cut, only truncated

Every piece starts with BOS. A document of more than T tokens fills rows of its own until its rest
fits one. The pieces then go, longest first, each into the fullest row that still has room, over the
whole shard at once; a shard has so many short documents that this leaves almost no gap. Where the
lengths do not fit together (say, all of them at 0.6 T), the emptiest rows are dissolved and their
pieces laid end to end, cut where a row ends. Padding stays under 0.5 % of the cells once a shard
has a few hundred rows of 256 cells or more.

Letters: N rows, C cells a row (T+1), P pieces, D documents. Reads and writes no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nanochat.data.rows import Ids, Masks, id_type, padding_id

Ints = npt.NDArray[np.int64]

# Empty cells that rows may keep before they are dissolved, as a share of the cells in use. Half of
# the promised 0.5 %: the other half is for what dissolving cannot fill, such as the last row.
KEPT_PADDING = 0.0025


@dataclass(frozen=True)
class RowPlan:
    """Pieces in the order in which they are laid: row by row, from the left.

    start_P, count_P: first token of a piece in the shard's stream of tokens, and how many (its BOS
    is not counted); row_P: its row, ascending; n_rows: rows in all.
    """

    start_P: Ints
    count_P: Ints
    row_P: Ints
    n_rows: int


class PackedConversations(NamedTuple):
    """rows_NC ids; masks_NC 1 where a token is a target; truncated: conversations cut at T+1."""

    rows_NC: Ids
    masks_NC: Masks
    truncated: int


def plan_rows(counts_D: npt.ArrayLike, capacity: int) -> RowPlan:
    """Plans the rows of a shard whose documents hold `counts_D` tokens (BOS not counted)."""
    assert capacity >= 2, "a row holds BOS and at least one token"
    start_P, count_P = _cut_documents(np.asarray(counts_D, dtype=np.int64), capacity - 1)
    row_P, n_rows = best_fit_decreasing(count_P + 1, capacity)
    gap_N = capacity - np.bincount(row_P, weights=count_P + 1, minlength=n_rows).astype(np.int64)
    kept_N = _rows_to_keep(gap_N, capacity)
    if not kept_N.all():
        start_P, count_P, row_P = _dissolve(start_P, count_P, row_P, kept_N, capacity)
    return _in_order(start_P, count_P, row_P)


def best_fit_decreasing(sizes_P: Ints, capacity: int) -> tuple[Ints, int]:
    """Row of each piece, and the number of rows; `sizes_P` are in [1, capacity].

    Best-fit-decreasing (Johnson 1973), exact, but on counts: all pieces of one size are placed
    together, into all rows with the same room at once, so the work grows with the number of
    distinct sizes rather than of pieces.
    """
    packer = _BestFit(sizes_P, capacity)
    sizes, numbers = np.unique(sizes_P, return_counts=True)
    for size, number in zip(sizes[::-1].tolist(), numbers[::-1].tolist(), strict=True):
        packer.place_all(size, number)
    return packer.row_P, packer.n_rows


class _BestFit:
    """Rows by the room they have left; takes pieces of one size at a time, largest size first."""

    def __init__(self, sizes_P: Ints, capacity: int) -> None:
        self.capacity = capacity
        self.row_P = np.empty(len(sizes_P), dtype=np.int64)
        self.n_rows = 0
        self._order_P = np.argsort(-sizes_P, kind="stable")
        self._placed = 0
        self._with_room: list[list[Ints]] = [[] for _ in range(capacity + 1)]
        self._count = np.zeros(capacity + 1, dtype=np.int64)

    def place_all(self, size: int, left: int) -> None:
        """Places `left` pieces of `size`, in the rows with the least sufficient room first."""
        for room in (np.flatnonzero(self._count[size:]) + size).tolist():
            if left == 0:
                return
            rows = np.concatenate(self._with_room[room])
            self._with_room[room], self._count[room] = [], 0
            left = self._fill(rows, room, size, left)
        if left:
            needed = -(-left // (self.capacity // size))
            fresh = np.arange(self.n_rows, self.n_rows + needed)
            self.n_rows += needed
            self._fill(fresh, self.capacity, size, left)

    def _fill(self, rows: Ints, room: int, size: int, left: int) -> int:
        """Fills `rows` one after the other, and returns how many pieces are still left."""
        each = room // size
        full = min(len(rows), left // each)
        self._put(rows[:full], room, size, each)
        left -= full * each
        rows = rows[full:]
        if len(rows) and left:
            self._put(rows[:1], room, size, left)
            rows, left = rows[1:], 0
        self._put(rows, room, size, 0)
        return left

    def _put(self, rows: Ints, room: int, size: int, each: int) -> None:
        """Puts `each` of the next pieces into every one of `rows`."""
        if not len(rows):
            return
        end = self._placed + each * len(rows)
        self.row_P[self._order_P[self._placed : end]] = np.repeat(rows, each)
        self._placed = end
        self._with_room[room - each * size].append(rows)
        self._count[room - each * size] += len(rows)


def _cut_documents(counts_D: Ints, longest: int) -> tuple[Ints, Ints]:
    """Start and number of tokens of each piece, documents in order, empty ones left out."""
    start_D = np.cumsum(counts_D) - counts_D
    pieces_D = -(-counts_D // longest)
    first_D = np.cumsum(pieces_D) - pieces_D
    document_P = np.repeat(np.arange(len(counts_D)), pieces_D)
    offset_P = (np.arange(len(document_P)) - first_D[document_P]) * longest
    return start_D[document_P] + offset_P, np.minimum(counts_D[document_P] - offset_P, longest)


def _rows_to_keep(gap_N: Ints, capacity: int) -> npt.NDArray[np.bool_]:
    """The fullest rows, as many as together stay within KEPT_PADDING."""
    fullest_first = np.argsort(gap_N, kind="stable")
    allowed = KEPT_PADDING * (capacity - gap_N).sum()
    kept_N = np.empty(len(gap_N), dtype=np.bool_)
    kept_N[fullest_first] = np.cumsum(gap_N[fullest_first]) <= allowed
    return kept_N


def _dissolve(
    start_P: Ints, count_P: Ints, row_P: Ints, kept_N: npt.NDArray[np.bool_], capacity: int
) -> tuple[Ints, Ints, Ints]:
    """Lays the pieces of the rows not kept end to end, cut where a row ends."""
    stays_P = kept_N[row_P]
    loose = zip(start_P[~stays_P].tolist(), count_P[~stays_P].tolist(), strict=True)
    renumbered_N = np.cumsum(kept_N) - 1
    laid: list[tuple[int, int, int]] = []
    row, room = int(kept_N.sum()), capacity
    for start, count in loose:
        while count:
            if room < 2:  # no room for BOS and a token
                row, room = row + 1, capacity
            taken = min(count, room - 1)
            laid.append((start, taken, row))
            start, count, room = start + taken, count - taken, room - taken - 1
    laid_P3 = np.array(laid, dtype=np.int64).reshape(-1, 3)
    return (
        np.concatenate([start_P[stays_P], laid_P3[:, 0]]),
        np.concatenate([count_P[stays_P], laid_P3[:, 1]]),
        np.concatenate([renumbered_N[row_P[stays_P]], laid_P3[:, 2]]),
    )


def _in_order(start_P: Ints, count_P: Ints, row_P: Ints) -> RowPlan:
    """Sorts pieces by row, the longest first, and rows by where their longest piece comes from.

    So the first rows of a shard are a fair sample of it, and not its longest documents.
    """
    longest_first = np.lexsort((start_P, -count_P, row_P))
    start_P, count_P, row_P = start_P[longest_first], count_P[longest_first], row_P[longest_first]
    leads_P = np.ones(len(row_P), dtype=np.bool_)
    leads_P[1:] = row_P[1:] != row_P[:-1]
    leaders_N = start_P[leads_P]
    new_number_N = np.empty(len(leaders_N), dtype=np.int64)
    new_number_N[np.argsort(leaders_N, kind="stable")] = np.arange(len(leaders_N))
    row_P = new_number_N[np.cumsum(leads_P) - 1]
    by_row = np.argsort(row_P, kind="stable")
    return RowPlan(start_P[by_row], count_P[by_row], row_P[by_row], len(leaders_N))


def lay_rows(plan: RowPlan, tokens: Ids, capacity: int, bos_id: int) -> Ids:
    """The rows [N, C] of a plan, of the type of `tokens`, the shard's documents without BOS."""
    rows_NC = np.full((plan.n_rows, capacity), padding_id(tokens.dtype), dtype=tokens.dtype)
    cells = rows_NC.reshape(-1)
    target_P = _first_cell(plan.row_P, plan.count_P + 1, capacity)
    cells[target_P] = bos_id
    pieces = zip((target_P + 1).tolist(), plan.start_P.tolist(), plan.count_P.tolist(), strict=True)
    for cell, start, count in pieces:
        cells[cell : cell + count] = tokens[start : start + count]
    return rows_NC


def pack_conversations(
    items: Sequence[tuple[Sequence[int] | Ids, Sequence[int] | Masks]],
    sequence_len: int,
    vocab_size: int,
) -> PackedConversations:
    """Packs whole conversations, given as (ids, mask), best fit; each begins with its own BOS.

    None is split: an answer cut from its question teaches nothing. One longer than T+1 loses its
    end and is counted. Empty ones are left out.
    """
    capacity, dtype = sequence_len + 1, id_type(vocab_size)
    for ids, mask in items:
        assert len(ids) == len(mask), "one mask value an id"
    whole = [(ids[:capacity], mask[:capacity]) for ids, mask in items if len(ids)]
    size_P = np.array([len(ids) for ids, _ in whole], dtype=np.int64)
    row_P, n_rows = best_fit_decreasing(size_P, capacity)
    rows_NC = np.full((n_rows, capacity), padding_id(dtype), dtype=dtype)
    masks_NC = np.zeros((n_rows, capacity), dtype=np.uint8)
    cells, mask_cells = rows_NC.reshape(-1), masks_NC.reshape(-1)
    by_row = np.argsort(row_P, kind="stable")
    target_P = _first_cell(row_P[by_row], size_P[by_row], capacity)
    for piece, cell in zip(by_row.tolist(), target_P.tolist(), strict=True):
        ids, mask = whole[piece]
        cells[cell : cell + len(ids)] = ids
        mask_cells[cell : cell + len(ids)] = mask
    truncated = sum(len(ids) > capacity for ids, _ in items)
    return PackedConversations(rows_NC, masks_NC, truncated)


def _first_cell(row_P: Ints, size_P: Ints, capacity: int) -> Ints:
    """Flat index of the first cell of pieces that are sorted by row and laid from the left."""
    before_P = np.cumsum(size_P) - size_P
    starts_row_P = np.ones(len(row_P), dtype=np.bool_)
    starts_row_P[1:] = row_P[1:] != row_P[:-1]
    before_row_N = before_P[starts_row_P]
    within_P: Ints = before_P - before_row_N[np.cumsum(starts_row_P) - 1]
    return row_P * capacity + within_P
