"""Which rank a process is, from what srun or torchrun tell it."""

import os

import pytest

from nanochat.errors import ConfigError
from nanochat.hpc.ranks import FIRST_PORT, Ranks, first_host, ranks_of, threads_of

STEP = {
    "SLURM_JOB_ID": "34007",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_NODELIST": "gpu[03-04]",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
}
TORCHRUN = {
    "RANK": "3",
    "LOCAL_RANK": "3",
    "WORLD_SIZE": "8",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


def test_a_task_of_srun_meets_the_others_on_its_first_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert ranks_of(STEP) == Ranks(9, 1, 16, "gpu03", FIRST_PORT + 7)


def test_torchrun_wins_where_both_are_there() -> None:
    assert ranks_of({**STEP, **TORCHRUN}) == Ranks(3, 3, 8, "127.0.0.1", 29500)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_ID": "17"},
        {**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"},
        {"MASTER_ADDR": "gpu01", "MASTER_PORT": "29500"},
    ],
    ids=["outside SLURM", "batch script", "step of one task", "little said", "leftover address"],
)
def test_a_process_is_alone(environment: dict[str, str]) -> None:
    assert ranks_of(environment) == Ranks()


@pytest.mark.parametrize("launcher", [STEP, TORCHRUN])
def test_a_missing_variable_is_named(launcher: dict[str, str]) -> None:
    for name in set(launcher) - {"SLURM_STEP_ID"}:
        rest = {key: value for key, value in launcher.items() if key != name}
        with pytest.raises(ConfigError, match=name):
            ranks_of(rest)


def test_a_variable_that_is_no_number_is_named() -> None:
    with pytest.raises(ConfigError, match="SLURM_PROCID is 'nine': it takes a whole number"):
        ranks_of({**STEP, "SLURM_PROCID": "nine"})


def test_a_rank_beyond_the_last_is_refused() -> None:
    with pytest.raises(ConfigError, match="rank 8 of 8"):
        ranks_of({**TORCHRUN, "RANK": "8"})


def test_ports_stay_below_the_ephemeral_ones() -> None:
    for job_id in ("0", "16999", "4294967294"):
        assert 15000 <= ranks_of({**STEP, "SLURM_JOB_ID": job_id}).port < 32000


@pytest.mark.parametrize("scontrol", [False, True])
@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("gpu01", "gpu01"),
        ("gpu[01-02]", "gpu01"),
        ("gpu[08,11-12],login", "gpu08"),
        ("rack[1-2]n[07-09]", "rack1n07"),
        ("login,gpu[01-02]", "login"),
        ("gpu[3]-ib", "gpu3-ib"),
    ],
)
def test_the_first_host_of_a_list(
    nodelist: str, host: str, scontrol: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not scontrol:
        monkeypatch.setenv("PATH", "")
    assert first_host(nodelist) == host


def test_threads_are_those_of_srun_at_most_the_cores_there_are() -> None:
    cores = len(os.sched_getaffinity(0))
    assert threads_of({**STEP, "SLURM_CPUS_PER_TASK": "1"}) == 1
    assert threads_of({**STEP, "SLURM_CPUS_PER_TASK": "1", "OMP_NUM_THREADS": "16"}) == 1
    assert threads_of({**STEP, "SLURM_CPUS_PER_TASK": str(cores + 1)}) == cores
    assert threads_of(STEP) is None
    assert threads_of({"SLURM_CPUS_PER_TASK": "6"}) is None
