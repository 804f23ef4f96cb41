"""Every file that a stage opens is an input of its rule: nothing is found missing after hours."""

import shutil

import pytest

from traced import Job, files_opened, jobs_of

STAGES = ("base_train", "mid_train", "chat_sft")
# What a command may read beside its rule's inputs: the config, how far its own training came, and
# the order of a user's own shards.
OWN = (".nanochat/runs/local/", ".nanochat/checkpoints/local/", ".nanochat/base_data/order-")


def undeclared(job: Job, opened: set[str]) -> list[str]:
    declared = {*job.inputs, *job.outputs}
    folders = tuple(f"{path}/" for path in declared)
    return sorted(
        path
        for path in opened
        if path not in declared and not path.startswith(folders) and not path.startswith(OWN)
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_every_file_that_a_stage_opens_is_an_input_of_its_rule(fetched_road, tmp_path) -> None:
    folder = tmp_path / "checkout"
    shutil.copytree(fetched_road.folder, folder, symlinks=True)
    checkout = type(fetched_road)(folder)
    shutil.rmtree(checkout.base_dir / "models")  # else a training would have nothing to do
    shutil.rmtree(checkout.base_dir / "checkpoints")
    jobs = [job for job in jobs_of(checkout) if not job.rule.startswith("download")]
    assert set(STAGES) < {job.rule for job in jobs}
    opened = {job.name: files_opened(job, checkout, tmp_path / "trace") for job in jobs}
    assert {job.name: undeclared(job, opened[job.name]) for job in jobs} == {
        job.name: [] for job in jobs
    }
    for job in jobs:
        if job.rule in STAGES:  # the tracing sees what it has to see
            assert {path for path in job.inputs if path.endswith(".npy")} <= opened[job.name]


def test_an_undeclared_file_would_be_seen() -> None:
    job = Job("x", (".nanochat/a", ".nanochat/folder"), (".nanochat/b",), "")
    assert undeclared(job, {".nanochat/a", ".nanochat/folder/in/it", ".nanochat/c"}) == [
        ".nanochat/c"
    ]
