# What the rules share: the resolved config, the cluster, the user's text, and what jobs ask for.

import os
import re
import shlex
import sys
from pathlib import Path

from nanochat.config import STAGES, Config
from nanochat.fetch.externals import externals
from nanochat.data.layout import conversation_files, corpus_layout
from nanochat.data.sources import content_fingerprint
from nanochat.errors import NanochatError
from nanochat.files import require_writable
from nanochat.forgotten import refuse_strangers
from nanochat.hpc import resources
from nanochat.hpc.environment import OFFLINE, load_env_local, variables
from nanochat.hpc.site import Site, refuse_a_lost_site
from nanochat.horizon import shard_plan, with_train_shards
from nanochat.model.hardware import peak_of
from nanochat.model.workload import evaluation_flops, training_flops
from nanochat.registry import (
    CORE_BUNDLE,
    ENGLISH_WORDS,
    GENERATED,
    IDENTITY,
    PLAIN_FILES,
    TABLES,
    TASK_SHARDS,
    VOCABULARIES,
    WORD_TASKS,
)


def one_sentence(error):
    """Ends Snakemake as the commands end: the sentence alone, and the error's exit code."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(error.exit_code)


try:
    load_env_local(Path.cwd(), os.environ)
    # The cluster, where the profile names one: its site.yaml arrives in Snakemake's config.
    SITE = Site.resolve(config.pop("site"), os.environ) if "site" in config else None
    refuse_a_lost_site(sys.argv, SITE)
    if SITE:
        os.environ.update(variables(SITE, os.environ))
    GIVEN = Config.resolve(config)
    SHARD_PLAN, CONFIG = shard_plan(GIVEN), with_train_shards(GIVEN)
    DISK = CONFIG.disk
    require_writable(DISK.base_dir)
    CORPUS = corpus_layout(DISK)
    OWN_IDENTITY = [DISK.own_identity] if DISK.own_identity else []
    conversation_files(OWN_IDENTITY, "chat.identity")
    CONVERSATIONS = conversation_files(DISK.conversations)
    EXTERNALS = externals(DISK)
    refuse_strangers(CONFIG, Path(".snakemake"))
except NanochatError as error:
    one_sentence(error)

# Every rule's command is the `nanochat` beside the Python that runs Snakemake, and reads the config
# as Snakemake resolved it. (A prefix of one's own replaces Snakemake's `set -euo pipefail`.)
BIN = Path(sys.executable).parent
os.environ.update(NANOCHAT_CONFIG=str(DISK.resolved_config))
COMMAND_PREFIX = (
    "set -euo pipefail; "
    f"export PATH={shlex.quote(str(BIN))}:$PATH "
    f"NANOCHAT_CONFIG={shlex.quote(str(DISK.resolved_config))}; "
)
# On a cluster's nodes there is no network, and a command leaves a marker when it ends, so that the
# executor need not ask SLURM all the time.
JOB_PREFIX = (
    'if [ -n "${{SLURM_JOB_ID:-}}" ]; then '
    f"export {' '.join(f'{name}={value}' for name, value in OFFLINE.items())} "
    f"NANOCHAT_OUTCOMES={shlex.quote(str(DISK.outcomes))} "
    f"NANOCHAT_ENDED={shlex.quote(str(DISK.ended))}/$SLURM_JOB_ID; "
    'rm -f "$NANOCHAT_ENDED"; '
    """trap '{{ : > "$NANOCHAT_ENDED"; }} 2>/dev/null || true' EXIT; fi; """
)
shell.prefix(COMMAND_PREFIX + (JOB_PREFIX if SITE else ""))

TRAIN_SHARDS, VALIDATION_SHARD, ALL_SHARDS = (
    CORPUS.train,
    CORPUS.validation,
    CORPUS.names,
)
# The generated tasks, as files of items to train on and to be tested with.
TASKS = CONFIG.items_of(GENERATED)
ITEMS = {
    split: [DISK.task(name, split) for name in TASKS] for split in ("train", "test")
}
# Downloaded files beside the corpus and the tables.
WORDS = [
    DISK.plain_file(file.name, file.file)
    for file in ([ENGLISH_WORDS] if CONFIG.chat.words == "english" else [])
]
COMPARED = [
    DISK.plain_file(file.name, file.file)
    for file in (VOCABULARIES.values() if CONFIG.tokenizer.compare_with_gpt else [])
]
BUNDLE_RECORD = (
    DISK.record_of(DISK.eval_bundle) if CONFIG.evaluation.bundle == "core" else []
)
# The stages that train on conversations, and the stage whose model each starts from.
STAGE_BEFORE = {"mid": "base", "sft": "mid"}


wildcard_constraints:
    shard="[^/]+",
    stage="|".join(STAGE_BEFORE),


def threads_of(job):
    """Cores of a job on the site, for all its ranks; else all that Snakemake may use here."""
    if SITE is None:
        return workflow.cores
    return job["cpus_per_task"] * job.get("tasks_per_node", 1)


def cpu_job():
    """What a rule without a GPU asks SLURM for; nothing on one machine."""
    return resources.cpu_resources(SITE) if SITE else {}


def training_job(stage):
    """What a training asks SLURM for: every GPU, and a walltime planned from its operations."""
    if SITE is None:
        return {}
    peak = resources.gpu_peak_flops(SITE, peak_of(SITE.gpu.model or ""))
    return resources.training_resources(SITE, training_flops(CONFIG, stage), peak)


def evaluation_job(stage):
    """What an evaluation asks SLURM for: one GPU."""
    if SITE is None:
        return {}
    peak = resources.gpu_peak_flops(SITE, peak_of(SITE.gpu.model or ""))
    return resources.evaluation_resources(SITE, evaluation_flops(CONFIG, stage), peak)


def launcher(wildcards, resources):
    """`srun ...` where a job has several ranks, nothing where it has one."""
    return resources.get("mpi", "")


def determined_by(rule):
    """The config's keys that decide the result of `rule`: Snakemake reruns it when they change."""
    return CONFIG.settings_of(rule)


def tokenizer_input():
    """The tokenizer; its merges are of the text that its JSON was written for."""
    return {
        "tokenizer": DISK.tokenizer_file,
        "merges": ancient(DISK.tokenizer / "merges.tiktoken"),
    }


def model_input(stage):
    """A stage's model; its record says which weights these are."""
    folder = DISK.stage(stage)
    return {
        "model": ancient([folder / "model.safetensors", folder / "config.json"]),
        "model_record": folder / "record.json",
    }
