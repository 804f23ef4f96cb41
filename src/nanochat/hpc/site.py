"""A cluster, as its profile describes it: profiles/<cluster>/site.yaml, typed.

    site = Site.resolve(config.pop("site"), os.environ)
    site.gpu.partition

Snakemake merges site.yaml into its config (the profile's key `configfile`). What differs between
people and not between clusters (account, partition, e-mail, paths) can be given as environment
variables, in the shell or in `.env.local`: see `OVERRIDES`. Without a site everything runs here.

Reads nothing but what it is handed; writes nothing.
"""

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any, Self

from pydantic import Field, PositiveInt

from nanochat.config import validated
from nanochat.errors import ConfigError
from nanochat.settings import Section

OVERRIDES = {
    "NANOCHAT_ACCOUNT": ("account",),
    "NANOCHAT_EMAIL": ("email",),
    "NANOCHAT_SCRATCH": ("scratch",),
    "NANOCHAT_SHARED_DIR": ("shared_dir",),
    "NANOCHAT_INTERNET_HOSTS": ("internet_hosts",),
    "NANOCHAT_PARTITION": ("gpu", "partition"),
    "NANOCHAT_CPU_PARTITION": ("cpu", "partition"),
    "NANOCHAT_NODES": ("gpu", "nodes"),
    "NANOCHAT_GPUS_PER_NODE": ("gpu", "per_node"),
}
"""Environment variable -> key of the site that it replaces."""
REFERENCE = "docs/reference/site.md"


NAME = r"^[\w.,:+-]+$"
"""What may stand in an account, a partition or a GPU type: it goes into sbatch's command line."""


class CpuNodes(Section):
    """What a job without a GPU asks for."""

    partition: str | None = Field(default=None, pattern=NAME)
    """Partition; null leaves the choice to the cluster's default."""
    cpus: PositiveInt = 8
    """Processor cores of a job."""
    memory_gb: PositiveInt = 32
    """Memory of a job, in GB."""
    max_hours: float = Field(default=12, gt=0)
    """The longest job that the partition takes, in hours."""


class GpuNodes(Section):
    """What a training asks for."""

    partition: str = Field(pattern=NAME)
    """Partition."""
    model: str | None = Field(default=None, pattern=NAME)
    """GPU type as SLURM names it (`--gpus=a100:8`); null asks for any."""
    per_node: PositiveInt = 1
    """GPUs of a node: one rank each."""
    nodes: PositiveInt = 1
    """Nodes of a training."""
    cpus: PositiveInt = 8
    """Processor cores of a node for a job that takes all its GPUs."""
    memory_gb: PositiveInt = 64
    """Memory of a node for a job that takes all its GPUs, in GB."""
    max_hours: float = Field(default=12, gt=0)
    """The longest job that the partition or the account takes, in hours."""
    mfu: float = Field(default=0.3, gt=0, le=1)
    """Share of the GPUs' bf16 peak that training reaches here: walltimes are planned with it."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """That peak in TFLOP/s, of one GPU; null looks `model` up."""

    @property
    def ranks(self) -> int:
        """Processes of a training."""
        return self.per_node * self.nodes


class Site(Section):
    """The facts of a cluster."""

    scratch: str
    """Folder for everything large, on a file system that all nodes see; $VARIABLES are expanded."""
    shared_dir: str | None = None
    """Base folder that somebody keeps for all, whose downloads are used in place; null where there
    is none."""
    python_module: str | None = None
    """Environment module that provides Python 3.11 or newer; null where `python3` is one."""
    internet_hosts: tuple[str, ...] = ()
    """Hosts with internet, as shell patterns: downloads run there only. None given: anywhere."""
    account: str | None = Field(default=None, pattern=NAME)
    """SLURM account that pays."""
    email: str | None = Field(default=None, pattern=r"^[\w.+-]+@[\w.-]+$")
    """Address that SLURM writes to when a GPU job begins, ends and fails."""
    gpu: GpuNodes
    cpu: CpuNodes = CpuNodes()

    @classmethod
    def resolve(cls, given: Any, environment: Mapping[str, str]) -> Self:
        """The site of a profile, with what the environment replaces. Raises ConfigError."""
        if not isinstance(given, Mapping):
            raise ConfigError(f"the profile's site holds {given!r}: it takes keys below it")
        facts = validated(cls, _overridden(given, {}), "site.", REFERENCE)
        try:
            site = validated(cls, _overridden(given, environment), "site.", REFERENCE)
        except ConfigError as exc:
            raise ConfigError(f"{exc} (from the environment or .env.local)") from exc
        if site.gpu.per_node > facts.gpu.per_node:
            raise ConfigError(
                f"NANOCHAT_GPUS_PER_NODE is {site.gpu.per_node}, but a node of "
                f"{facts.gpu.partition} has {facts.gpu.per_node} GPUs: give at most that"
            )
        return site

    def folder(self, environment: Mapping[str, str]) -> Path:
        """Where everything large goes: `scratch`, expanded, and below it this project's folder.

        Raises ConfigError where the scratch is not there.
        """
        root = Path(Template(self.scratch).safe_substitute(environment)).expanduser()
        if not root.is_dir():
            raise ConfigError(
                f"the scratch folder {root} is not there: create it, or name another one as "
                "NANOCHAT_SCRATCH in .env.local"
            )
        return root / "nanochat"


def refuse_a_lost_site(arguments: Sequence[str], site: Site | None) -> None:
    """Raises ConfigError where Snakemake was called (`sys.argv`) with a cluster's profile and a
    --configfile, which replaces the profile's own."""
    given = [right for left, right in pairwise(arguments) if left == "--profile"]
    given += [word.partition("=")[2] for word in arguments if word.startswith("--profile=")]
    lost = [Path(profile, "site.yaml") for profile in given if Path(profile, "site.yaml").is_file()]
    if lost and site is None:
        raise ConfigError(
            f"--configfile replaces the one that {lost[0].parent} gives: name both, "
            f"--configfile {lost[0]} YOURS.yaml"
        )


def _overridden(given: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    # In YAML, a heading whose keys are all commented out is null.
    merged = {key: copy.deepcopy(value) for key, value in given.items() if value is not None}
    for variable, (*sections, key) in OVERRIDES.items():
        if not environment.get(variable):
            continue
        target = merged
        for section in sections:
            target = target.setdefault(section, {})
        value = environment[variable]
        target[key] = value.split() if key == "internet_hosts" else value
    return merged
