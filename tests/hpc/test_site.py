"""A site's facts: typed, replaced by the environment, refused in one sentence."""

from pathlib import Path

import pytest

from nanochat.errors import ConfigError
from nanochat.hpc.environment import CACHES, load_env_local, variables
from nanochat.hpc.resources import (
    cpu_resources,
    evaluation_resources,
    gpu_peak_flops,
    planned_minutes,
    training_resources,
)
from nanochat.hpc.site import Site, refuse_a_lost_site

A100 = 312e12
GIVEN = {
    "scratch": "/scratch/$USER",
    "account": "class",
    "gpu": {"partition": "gpu", "model": "a100", "per_node": 8, "cpus": 16, "memory_gb": 256},
}


def site(**environment: str) -> Site:
    return Site.resolve(GIVEN, environment)


def test_the_environment_replaces_what_differs_between_people() -> None:
    mine = site(
        NANOCHAT_ACCOUNT="lab",
        NANOCHAT_PARTITION="big",
        NANOCHAT_CPU_PARTITION="small",
        NANOCHAT_NODES="2",
        NANOCHAT_INTERNET_HOSTS="dev-* login-1",
    )
    assert (mine.account, mine.gpu.partition, mine.cpu.partition) == ("lab", "big", "small")
    assert mine.gpu.ranks == 16
    assert mine.internet_hosts == ("dev-*", "login-1")
    assert GIVEN["gpu"]["partition"] == "gpu", "the profile's own facts are left as they are"


def test_an_empty_variable_replaces_nothing() -> None:
    assert site(NANOCHAT_ACCOUNT="").account == "class"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({**GIVEN, "acount": "x"}, "unknown config key site.acount: did you mean site.account?"),
        ({**GIVEN, "gpu": {"partition": "g", "per_nod": 8}}, "did you mean site.gpu.per_node?"),
        ({**GIVEN, "gpu": {"partition": "g", "per_node": 0}}, "site.gpu.per_node holds 0"),
        ({"scratch": "/s"}, "site.gpu holds nothing"),
        ("ptolemy", "the profile's site holds 'ptolemy'"),
    ],
)
def test_a_wrong_site_gets_one_sentence(given: object, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence.replace("?", r"\?").replace(".", r"\.")):
        Site.resolve(given, {})


def test_a_wrong_number_in_the_environment_gets_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"site\.gpu\.nodes holds 'two'"):
        site(NANOCHAT_NODES="two")


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("NANOCHAT_EMAIL", "a@b.c --wrap=x", r"site\.email holds .*see docs/reference/site\.md"),
        ("NANOCHAT_ACCOUNT", "x;y", r"site\.account holds 'x;y'.*from the environment"),
        ("NANOCHAT_PARTITION", "a b", r"site\.gpu\.partition holds 'a b'"),
        ("NANOCHAT_GPUS_PER_NODE", "9", "NANOCHAT_GPUS_PER_NODE is 9, but a node of gpu has 8"),
    ],
)
def test_what_would_end_in_sbatch_s_command_line_is_looked_at(
    variable: str, value: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        site(**{variable: value})


@pytest.mark.parametrize(
    "arguments", [["snakemake", "--profile", "P"], ["snakemake", "--profile=P", "-n"]]
)
def test_a_configfile_that_replaces_the_profile_s_is_noticed(
    tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "site.yaml").touch()
    given = [word.replace("P", str(tmp_path)) for word in arguments]
    with pytest.raises(ConfigError, match=r"name both, --configfile .*site\.yaml YOURS\.yaml"):
        refuse_a_lost_site(given, None)
    refuse_a_lost_site(given, site())
    refuse_a_lost_site(["snakemake", "--profile", str(tmp_path / "other")], None)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("NANOCHAT_ACOUNT=x", "NANOCHAT_ACOUNT, which nobody reads: did you mean NANOCHAT_ACCOUNT"),
        ("<<<<<<< HEAD", r"\.env\.local, line 1: '<<<<<<< HEAD' is not NAME=value"),
    ],
)
def test_a_wrong_line_of_env_local_gets_one_sentence(
    tmp_path: Path, line: str, sentence: str
) -> None:
    (tmp_path / ".env.local").write_text(line + "\n")
    with pytest.raises(ConfigError, match=sentence):
        load_env_local(tmp_path, {})


def test_scratch_is_expanded_and_has_to_be_there(tmp_path: Path) -> None:
    (tmp_path / "me").mkdir()
    here = site(NANOCHAT_SCRATCH=f"{tmp_path}/$USER")
    assert here.folder({"USER": "me", "USERNAME": "wrong"}) == tmp_path / "me" / "nanochat"
    with pytest.raises(ConfigError, match="is not there: create it, or name another one"):
        here.folder({"USER": "nobody"})


def test_every_cache_lies_below_scratch_and_a_chosen_base_folder_stays(tmp_path: Path) -> None:
    here = site(NANOCHAT_SCRATCH=str(tmp_path))
    found = variables(here, {})
    assert found["NANOCHAT_BASE_DIR"] == str(tmp_path / "nanochat")
    assert set(CACHES) < set(found)
    assert all(value.startswith(str(tmp_path)) for value in found.values())
    assert variables(here, {"NANOCHAT_BASE_DIR": "/mine"})["NANOCHAT_BASE_DIR"] == "/mine"


def test_env_local_adds_what_is_not_set(tmp_path: Path) -> None:
    (tmp_path / ".env.local").write_text("# mine\nNANOCHAT_EMAIL='a@b.c'\nNANOCHAT_ACCOUNT=lab\n")
    environment = {"NANOCHAT_ACCOUNT": "shell"}
    load_env_local(tmp_path, environment)
    assert environment == {"NANOCHAT_ACCOUNT": "shell", "NANOCHAT_EMAIL": "a@b.c"}


def test_a_walltime_is_planned_and_capped() -> None:
    hour = 8 * A100 * 0.5 * 3600
    assert planned_minutes(hour, 8, A100, 0.5, limit=12) == 30 + 120
    assert planned_minutes(100 * hour, 8, A100, 0.5, limit=12) == 720


def test_a_training_has_one_task_a_gpu_and_an_evaluation_one_gpu() -> None:
    training = training_resources(site(), 1e15, A100)
    assert "--gpus-per-node=a100:8" in str(training["slurm_extra"])
    assert (training["tasks_per_node"], training["nodes"]) == (8, 1)
    assert training["cpus_per_task"] == 2
    assert "--ntasks=8" in str(training["mpi"])
    evaluation = evaluation_resources(site(), 1e15, A100)
    assert (evaluation["gpu"], evaluation["cpus_per_task"]) == (1, 2)
    assert evaluation["mem_mb"] == 32_000
    assert "mpi" not in evaluation


def test_one_gpu_needs_no_launcher() -> None:
    alone = training_resources(site(NANOCHAT_GPUS_PER_NODE="1"), 1e15, A100)
    assert "mpi" not in alone and alone["gpu"] == 1
    assert alone["cpus_per_task"] == 16


def test_jobs_without_a_gpu_take_the_default_partition() -> None:
    assert "slurm_partition" not in cpu_resources(site())
    assert cpu_resources(site(NANOCHAT_CPU_PARTITION="small"))["slurm_partition"] == "small"


def test_an_unknown_gpu_needs_its_peak() -> None:
    with pytest.raises(ConfigError, match=r"give site\.gpu\.peak_tflops"):
        gpu_peak_flops(site(), None)
