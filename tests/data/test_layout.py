"""Which shard is which: by name, and the same ones when there are more."""

from pathlib import Path

import pytest

from nanochat.config import Config
from nanochat.data.layout import corpus_layout, keep_order
from nanochat.errors import BadInput, ConfigError
from nanochat.horizon import shard_plan, with_train_shards


def folder_of(tmp_path: Path, *numbers: int) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir(exist_ok=True)
    for number in numbers:
        (folder / f"shard_{number:05d}.parquet").touch()
    return folder


def config(tmp_path: Path, source: object, **data: object) -> Config:
    base = {"base_dir": str(tmp_path / "base")}
    return Config.resolve({"paths": base, "data": {"source": str(source), **data}})


def test_shards_of_a_folder_have_the_names_of_its_files(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 3, 5, 7, 11)
    layout = corpus_layout(config(tmp_path, folder, train_shards=2).disk)
    assert (layout.train, layout.validation) == (("00003", "00005"), "00011")
    assert layout.parquet("00011") == folder / "shard_00011.parquet"
    assert layout.record("00003").name == "shard_00003.json"


def test_files_added_to_a_used_folder_come_last_and_are_never_held_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 3, 5, 7)
    used = config(tmp_path, folder, train_shards=2)
    before = corpus_layout(used.disk)
    keep_order(used.disk, before)
    folder_of(tmp_path, 1, 9)
    assert corpus_layout(used.disk) == before
    more = corpus_layout(config(tmp_path, folder, train_shards=4).disk)
    assert more.names == ("00003", "00005", "00001", "00009", "00007")
    keep_order(used.disk, before)
    folder_of(tmp_path, 0)
    assert corpus_layout(config(tmp_path, folder, train_shards=4).disk).names == more.names


def test_a_lost_validation_shard_is_an_error(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 3, 5, 7)
    used = config(tmp_path, folder, train_shards=1)
    keep_order(used.disk, corpus_layout(used.disk))
    (folder / "shard_00007.parquet").unlink()
    with pytest.raises(BadInput, match=r"has lost its validation shard, shard_00007\.parquet"):
        corpus_layout(used.disk)


def test_runs_with_other_numbers_of_downloaded_shards_share_everything_else(tmp_path: Path) -> None:
    name = "climbmix-400b-shuffle"
    some, more = (config(tmp_path, name, train_shards=number) for number in (20, 30))
    assert some.disk.tokenizer == more.disk.tokenizer
    assert some.disk.tokens == more.disk.tokens
    some_layout, more_layout = corpus_layout(some.disk), corpus_layout(more.disk)
    assert some_layout.validation == more_layout.validation == "06542"
    assert set(some_layout.records) < set(more_layout.records)


def test_a_tokenizer_of_fewer_shards_than_it_may_read_is_another_one(tmp_path: Path) -> None:
    large = {"max_characters": 2_000_000_000}
    base = {"base_dir": str(tmp_path)}
    disks = [
        Config.resolve(
            {
                "paths": base,
                "tokenizer": large,
                "data": {"source": "climbmix-400b-shuffle", "train_shards": number},
            }
        ).disk
        for number in (4, 8, 9)
    ]
    assert [disk.tokenizer_shards for disk in disks] == [4, 8, 8]
    assert disks[0].tokenizer != disks[1].tokenizer == disks[2].tokenizer


@pytest.mark.parametrize(("preset", "shards"), [("d12", 26), ("d20", 101), ("d24", 113)])
def test_the_number_of_shards_follows_from_the_run(preset: str, shards: int) -> None:
    given = Config.resolve({"preset": preset})
    planned = shard_plan(given)
    assert planned is not None
    assert planned.train_shards == shards
    assert (shards - 1) * planned.tokens_per_shard < planned.tokens
    assert planned.tokens <= shards * planned.tokens_per_shard
    filled_in = with_train_shards(given)
    assert filled_in.train_shards == shards
    assert len(corpus_layout(filled_in.disk).names) == shards + 1


def test_a_run_that_needs_more_than_there_is_reads_all_of_it_again() -> None:
    source = {"source": "fineweb-edu-100b-shuffle"}
    planned = shard_plan(Config.resolve({"preset": "d20", "data": source, "model": {"depth": 60}}))
    assert planned is not None
    assert planned.train_shards == 1822
    assert "karpathy/fineweb-edu-100b-shuffle has no more, so they are read 1." in planned.why


def test_more_shards_than_there_are_is_an_error() -> None:
    source = {"source": "fineweb-edu-100b-shuffle", "train_shards": 1823}
    with pytest.raises(ConfigError, match="give at most 1822"):
        with_train_shards(Config.resolve({"preset": "d20", "data": source}))


def test_a_corpus_that_is_not_downloaded_has_four_training_shards() -> None:
    local = Config.resolve({})
    assert shard_plan(local) is None
    assert with_train_shards(local).train_shards == 4
