from pathlib import Path

import numpy as np
import pytest

from nanochat.data.rows import id_type, open_rows, padding_id, write_rows
from nanochat.errors import DamagedArtefact, DiskError, MissingArtefact
from nanochat.files import read_json, sha256_of

ROWS = np.arange(30, dtype=np.uint16).reshape(5, 6)
MASKS = (ROWS % 2).astype(np.uint8)


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    write_rows(tmp_path, "shard_00000", ROWS, MASKS, {"tokenizer": "abc"})
    packed = open_rows(tmp_path / "shard_00000.npy")
    assert (packed.ids_NC == ROWS).all()
    assert packed.masks_NC is not None
    assert (packed.masks_NC == MASKS).all()
    assert isinstance(packed.ids_NC, np.memmap)


def test_record_says_what_the_rows_are(tmp_path: Path) -> None:
    write_rows(tmp_path, "shard_00000", ROWS, None, {"tokenizer": "abc"})
    assert read_json(tmp_path / "shard_00000.json", "") == {
        "tokenizer": "abc",
        "rows": 5,
        "sequence_len": 5,
        "dtype": "uint16",
        "sha256": sha256_of(tmp_path / "shard_00000.npy"),
    }


def test_mask_of_earlier_rows_does_not_outlive_them(tmp_path: Path) -> None:
    write_rows(tmp_path, "shard_00000", ROWS, MASKS, {})
    write_rows(tmp_path, "shard_00000", ROWS, None, {})
    assert open_rows(tmp_path / "shard_00000.npy").masks_NC is None
    assert not (tmp_path / "shard_00000.mask.npy").exists()


def test_padding_is_never_an_id() -> None:
    for vocab_size in (512, 65_534, 65_535, 65_536, 100_000):
        assert padding_id(id_type(vocab_size)) >= vocab_size
    assert id_type(65_534) is np.uint16
    assert id_type(65_535) is np.uint32


def test_missing_rows_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match="run `make run` first"):
        open_rows(tmp_path / "shard_00000.npy")
    write_rows(tmp_path, "shard_00000", ROWS, None, {})
    (tmp_path / "shard_00000.npy").unlink()
    with pytest.raises(MissingArtefact, match="no rows at"):
        open_rows(tmp_path / "shard_00000.npy")


@pytest.mark.parametrize("kept", [0, 50, 140])
def test_cut_file_is_noticed_when_opened(kept: int, tmp_path: Path) -> None:
    write_rows(tmp_path, "shard_00000", ROWS, None, {})
    path = tmp_path / "shard_00000.npy"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DamagedArtefact, match=r"its record says uint16 \[5, 6\]: delete both"):
        open_rows(path)


def test_rows_of_another_size_are_noticed_when_opened(tmp_path: Path) -> None:
    write_rows(tmp_path, "shard_00000", ROWS, None, {})
    np.save(tmp_path / "shard_00000.npy", ROWS[:4])
    with pytest.raises(DamagedArtefact, match=r"is uint16 \[4, 6\], but its record says"):
        open_rows(tmp_path / "shard_00000.npy")


def test_record_without_sizes_is_noticed(tmp_path: Path) -> None:
    write_rows(tmp_path, "shard_00000", ROWS, None, {})
    (tmp_path / "shard_00000.json").write_text("{}")
    with pytest.raises(DamagedArtefact, match="lacks the size of its rows"):
        open_rows(tmp_path / "shard_00000.npy")


def test_full_disk_is_one_sentence_and_leaves_nothing_behind(small_disk: Path) -> None:
    rows_NC = np.zeros((1000, 4000), dtype=np.uint16)
    with pytest.raises(DiskError, match="the disk is full"):
        write_rows(small_disk, "shard_00000", rows_NC, None, {})
    assert list(small_disk.iterdir()) == []
