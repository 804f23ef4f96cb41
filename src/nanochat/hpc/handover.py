"""A workflow that is started while jobs of an earlier one are still in the queue.

    require_same_config(disk.resolved_config, config, lambda: queued_jobs(name))

With the same config it waits for these jobs (hpc/executor.py). With another one it would take their
results for its own: it says so, in one sentence, and starts nothing. Reads the resolved config that
the earlier workflow filed.
"""

from collections.abc import Callable
from pathlib import Path

from nanochat.config import Config, load_config
from nanochat.errors import BadInput, ConfigError
from nanochat.files import fingerprint
from nanochat.hpc.slurm import SlurmJob


def require_same_config(
    filed: Path, config: Config, queued_jobs: Callable[[], list[SlurmJob]]
) -> None:
    """Raises BadInput where live jobs of this run were started with a config unlike `config`.

    `filed` is the earlier workflow's resolved config; how trainings operate may differ.
    """
    if not filed.is_file() or _identity(config) == _identity_of_file(filed):
        return
    live = [job for job in queued_jobs() if job.is_live]
    if not live:
        return
    ids = " ".join(job.id for job in live)
    rules = ", ".join(sorted({job.rule or job.name for job in live}))
    raise BadInput(
        f"{len(live)} jobs of an earlier workflow ({rules}) are in the queue with another config: "
        f"`scancel {ids}` (trainings keep their checkpoints), or give this run a name of its own, "
        "--config run=NAME"
    )


def _identity(config: Config) -> str:
    return fingerprint(config.model_dump(mode="json", exclude={"operation"}))


def _identity_of_file(path: Path) -> str:
    try:
        return _identity(load_config(path))
    except ConfigError:  # of an older version of this project
        return ""
