"""`nanochat checkpoint`: what it shows, what it deletes, and what it leaves alone."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import IDENTITY, harm, newest, save, store_at, tensors_of, write_parts
from typer.testing import CliRunner

from nanochat.cli_checkpoint import checkpoint
from nanochat.errors import BadInput, DamagedArtefact, MissingArtefact
from nanochat.files import sha256_of
from nanochat.train import checkpoint_review
from nanochat.train.checkpoint_review import Review, find
from nanochat.train.checkpoints import CheckpointStore, Identity
from nanochat.train.parts import Piece

OTHER = Identity("0" * 64, {"config": {"depth": 6}, "data": ["a", "b"]})
PIECE = Piece(torch.ones(1))


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """The folder of a run's base checkpoints; its config is beside it."""
    (tmp_path / "config.yaml").write_text(f"run: r\npaths: {{base_dir: {tmp_path}}}\n")
    return tmp_path / "checkpoints" / "r" / "base"


def run(stage: Path, *arguments: str) -> Any:
    """What the command prints; raises what it raises."""
    config = ["--config", str(stage.parents[2] / "config.yaml")]
    result = CliRunner().invoke(checkpoint, [*arguments, *config])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1), result.output
    return result


def listed(stage: Path) -> list[tuple[int, str]]:
    found = json.loads(run(stage, "list", "--json").stdout)
    return [(each["step"], each["state"]) for each in found]


def snapshot(folder: Path) -> dict[str, Any]:
    return {
        str(path): sha256_of(path) if path.is_file() else path.stat().st_mtime_ns
        for path in folder.rglob("*")
    }


def with_everything(stage: Path) -> CheckpointStore:
    """Whole, damaged, set aside, unfinished, and of another training."""
    save(store_at(stage, identity=OTHER), 90)
    store = store_at(stage, world_size=2)
    for step in (1, 2, 3, 4):
        save(store, step, score=step / 8)
    store.set_aside(4, "not wanted")
    harm(store.path(2) / "model-001-of-002.safetensors", "halve")
    write_parts(stage, 5, attempt=7)
    return store


# --- list and verify ----------------------------------------------------------------------------


def test_all_that_is_there_is_listed(stage: Path) -> None:
    with_everything(stage)
    lines = run(stage, "list").stdout.splitlines()
    header, *rows = (re.split(" {2,}", line.strip()) for line in lines)
    assert " ".join(header) == "stage training step when age size ranks score state"
    assert [(row[1][0], row[2], *row[6:8], row[8].partition(":")[0]) for row in rows] == [
        ("0", "90", "1", "-", "whole, LATEST"),
        ("f", "1", "2", "0.1250", "whole"),
        ("f", "2", "-", "-", "damaged"),
        ("f", "3", "2", "0.3750", "whole, LATEST"),
        ("f", "4", "-", "-", "set aside"),
        ("f", "5", "-", "-", "unfinished"),
    ]
    assert rows[2][8].endswith("model-001-of-002.safetensors has 149 bytes, not 298")


def test_json_says_it_all(stage: Path) -> None:
    store = store_at(stage, world_size=2)
    size = save(store, 3, score=1.5)
    (found,) = json.loads(run(stage, "list", "--json", "--stage", "base").stdout)
    manifest = store.manifest(3)
    assert found == {
        "stage": "base",
        "training": "f" * 16,
        "path": str(store.path(3)),
        "state": "whole",
        "step": 3,
        "bytes": size - (store.path(3) / "manifest.json").stat().st_size,
        "written": manifest["written"],
        "world_size": 2,
        "score": 1.5,
        "latest": True,
        "remark": "",
    }
    assert json.loads(run(stage, "list", "--json", "--stage", "mid").stdout) == []


def test_a_run_without_checkpoints_is_said_to_have_none(stage: Path) -> None:
    assert run(stage, "list").stdout == "there are no checkpoints\n"
    assert "0 of 0 checkpoints are whole" in run(stage, "verify").stdout
    assert "deleted 0 folders" in run(stage, "prune", "--keep", "1").stdout


def test_verify_names_each_damaged_file(stage: Path) -> None:
    store = store_at(stage, world_size=2)
    for step in (1, 2, 3):
        save(store, step)
    run(stage, "verify")
    harm(store.path(1) / "model-000-of-002.safetensors", "flip")
    harm(store.path(1) / "random-001-of-002.safetensors", "delete")
    harm(store.path(3) / "manifest.json", "flip")
    before = snapshot(stage)
    config = ["--config", str(stage.parents[2] / "config.yaml")]
    result = CliRunner().invoke(checkpoint, ["verify", *config])
    assert isinstance(result.exception, DamagedArtefact)
    assert result.exception.exit_code == 2
    lines = result.stdout.splitlines()
    assert "model-000-of-002.safetensors is damaged: its SHA-256 differs" in lines[0]
    assert lines[1].endswith("random-001-of-002.safetensors is missing")
    assert lines[2].startswith(str(store.path(3) / "manifest.json"))
    assert lines[3] == "1 of 3 checkpoints are whole"
    assert snapshot(stage) == before


def test_verify_leaves_out_what_is_pruned_while_it_reads(stage: Path) -> None:
    store = store_at(stage)
    for step in (1, 2):
        save(store, step)
    review = Review(find("base", stage))
    reading = review.read()
    next(reading)
    shutil.rmtree(store.path(1))
    shutil.rmtree(store.path(2))
    for _ in reading:
        pass
    assert review.damage == {}


def test_verify_reads_again_what_was_saved_anew_while_it_read(
    stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(stage)
    save(store, 1)
    review = Review(find("base", stage))
    reading = review.read()
    next(reading)  # it has read the first file, of the first manifest
    parts = {part: {"other": Piece(torch.ones(9))} for part in tensors_of(1)}
    store.write_part(1, parts)
    store.commit(1, {"step": 1})
    for _ in reading:
        pass
    assert review.damage == {store.path(1): []}


def test_what_vanishes_between_listing_and_reading_is_not_listed(
    stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(stage)
    for step in (1, 2):
        save(store, step)
    names = checkpoint_review._names

    def pruned_meanwhile(folder: Path) -> list[str]:
        found = names(folder)
        shutil.rmtree(store.path(1), ignore_errors=True)
        return found

    monkeypatch.setattr(checkpoint_review, "_names", pruned_meanwhile)
    assert [each.step for each in find("base", stage)] == [2]


@pytest.mark.parametrize("command", ["list", "verify"])
def test_looking_while_a_training_saves_and_prunes_finds_no_damage(
    stage: Path, command: str
) -> None:
    script = (
        "import sys, torch; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from tiny_checkpoints import save, store_at\n"
        "from nanochat.train.checkpoints import Retention\n"
        "store = store_at(Path(sys.argv[1]), Retention(last=1))\n"
        "print(flush=True)\n"
        "for step in range(100_000): save(store, step % 40)\n"
    )
    arguments = [sys.executable, "-c", script, str(stage), str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        try:
            for _ in range(25):
                shown = json.loads(run(stage, command, "--json").stdout)
                assert all(each.get("state", "") != "damaged" for each in shown), shown
                assert not any(each.get("damage") for each in shown), shown
        finally:
            writer.kill()


@pytest.mark.parametrize("command", ["list", "verify", "prune"])
def test_looking_and_pruning_load_no_torch(stage: Path, command: str) -> None:
    save(store_at(stage), 1)
    script = (
        "import sys; from nanochat.cli_checkpoint import checkpoint\n"
        "checkpoint(sys.argv[1:], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    keep = ["--keep", "1"] if command == "prune" else []
    config = ["--config", str(stage.parents[2] / "config.yaml")]
    done = subprocess.run(
        [sys.executable, "-c", script, command, *keep, *config], capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


# --- prune --------------------------------------------------------------------------------------


def test_prune_keeps_the_newest_and_removes_what_was_left_over(stage: Path) -> None:
    store = with_everything(stage)
    before = snapshot(stage)
    dry = run(stage, "prune", "--keep", "1", "--dry-run").stdout.splitlines()
    assert snapshot(stage) == before
    done = run(stage, "prune", "--keep", "1").stdout.splitlines()
    assert [line.replace("would delete", "deleted") for line in dry] == done
    assert done[-1].startswith("deleted 3 folders, ")
    assert listed(stage) == [(90, "whole"), (3, "whole"), (4, "set aside")]
    assert newest(store) is not None


def test_prune_removes_other_trainings_and_what_was_set_aside_where_asked(stage: Path) -> None:
    with_everything(stage)
    gone = json.loads(
        run(stage, "prune", "--keep", "3", "--damaged", "--all-trainings", "--json").stdout
    )
    assert {each["step"] for each in gone} == {90, 4, 5}
    assert listed(stage) == [(1, "whole"), (2, "damaged"), (3, "whole")]
    assert not (stage / ("0" * 16)).exists()


def test_prune_keeps_other_trainings_where_the_newest_one_has_nothing_whole(stage: Path) -> None:
    save(store_at(stage, identity=OTHER), 90)
    store = store_at(stage)
    save(store, 1)
    harm(store.path(1) / "model-000-of-001.safetensors", "flip")
    assert json.loads(run(stage, "prune", "--keep", "1", "--all-trainings", "--json").stdout) == []
    assert listed(stage) == [(90, "whole"), (1, "whole")]


def test_prune_refuses_while_a_training_holds_the_folder(stage: Path) -> None:
    lease = pytest.importorskip("nanochat.train.lease")
    store = store_at(stage)
    for step in (1, 2):
        save(store, step)
    with (
        lease.one_writer(stage),
        pytest.raises(BadInput, match=f"process {os.getpid()} on .* is training into"),
    ):
        run(stage, "prune", "--keep", "1")
    assert store.steps() == [1, 2]
    run(stage, "prune", "--keep", "1")
    assert store.steps() == [2]


# --- diff ---------------------------------------------------------------------------------------


def test_the_same_state_written_by_other_ranks_is_no_difference(stage: Path) -> None:
    for folder, world_size in ((stage, 1), (stage.with_name("mid"), 3)):
        save(store_at(folder, world_size=world_size), 5)
    result = run(stage, "diff", "base:5", "mid:5")
    assert (result.exit_code, result.stdout) == (0, "the same, bit for bit\n")


def test_everything_that_differs_is_named(stage: Path) -> None:
    one = store_at(stage)
    values = torch.tensor([1.0, 2.0, 3.0])
    one.write_part(5, {"model": {"w": Piece(values), "a": PIECE, "b": PIECE}})
    one.commit(5, {"tokens": 10, "window": [1]})
    other = store_at(stage, identity=OTHER)
    changed = torch.tensor([1.0, 2.25, -3.0])
    nan = torch.tensor([float("nan")])
    other.write_part(6, {"model": {"w": Piece(changed), "a": Piece(nan), "c": PIECE}})
    other.commit(6, {"tokens": 20, "window": [1]})
    result = run(stage, "diff", str(one.path(5)), "base:6")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "step: 5 here, 6 there",
        "identity code: 1.0 here, absent there",
        "identity config.depth: 4 here, 6 there",
        "loop_state tokens: 10 here, 20 there",
        "model a: 1 elements of float32 [1] differ, at most by no number",
        "model b: float32 [1] here, absent there",
        "model c: absent here, float32 [1] there",
        "model w: 2 elements of float32 [3] differ, at most by 6",
        "8 differences",
    ]
    as_json = json.loads(run(stage, "diff", "base:5", "base:6", "--json").stdout)
    assert as_json[-1]["max_difference"] == 6.0
    assert as_json[4]["max_difference"] is None


def test_a_nan_with_the_same_bits_is_no_difference_and_a_negative_zero_is(stage: Path) -> None:
    for step, zero in ((5, 0.0), (6, -0.0)):
        store = store_at(stage, identity=IDENTITY)
        values = torch.tensor([float("nan"), zero])
        store.write_part(step, {"model": {"w": Piece(values)}})
        store.commit(step, {})
    found = json.loads(run(stage, "diff", "base:5", "base:6", "--json").stdout)
    assert [(each["kind"], each["elements"]) for each in found] == [("step", None), ("model", 1)]


def test_what_cannot_be_compared_is_said_in_a_sentence(stage: Path) -> None:
    for identity in (IDENTITY, OTHER):
        save(store_at(stage, identity=identity), 5)
    with pytest.raises(BadInput, match="base:5 is a step of 2 trainings: give a folder"):
        run(stage, "diff", "base:5", "base:5")
    with pytest.raises(MissingArtefact, match="no checkpoint base:7"):
        run(stage, "diff", "base:7", "base:5")
    with pytest.raises(BadInput, match="there is no folder nowhere"):
        run(stage, "diff", "nowhere", "base:5")
    with pytest.raises(MissingArtefact, match=r"manifest\.json is missing"):
        run(stage, "diff", str(stage), str(stage))
