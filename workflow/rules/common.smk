# What the rules share: the resolved config, the user's text, and the hooks of a workflow.

import fcntl
import os
import platform
import shlex
import sys
import time
from pathlib import Path

from nanochat.config import STAGES, Config
from nanochat.data.internet import download_command, require_internet
from nanochat.data.layout import conversation_files, corpus_layout
from nanochat.data.sources import content_fingerprint
from nanochat.errors import BadInput, ConfigError, NanochatError
from nanochat.files import disk_errors, make_directory, require_writable, write_text
from nanochat.hpc import resources
from nanochat.hpc.environment import OFFLINE, load_env_local, variables
from nanochat.hpc.handover import require_same_config
from nanochat.hpc.site import Site
from nanochat.hpc.slurm import job_name, queued_jobs
from nanochat.model.hardware import peak_of
from nanochat.model.workload import evaluation_flops, training_flops


def one_sentence(error):
    """Ends Snakemake as the commands end: the sentence alone, and the error's exit code."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(error.exit_code)


try:
    load_env_local(Path.cwd(), os.environ)
    # The cluster, where the profile names one: its site.yaml arrives in Snakemake's config.
    SITE = Site.resolve(config.pop("site"), os.environ) if "site" in config else None
    if SITE:
        os.environ.update(variables(SITE, os.environ))
    CONFIG = Config.resolve(config)
    DISK = CONFIG.disk
    require_writable(DISK.base_dir)
    CORPUS = corpus_layout(DISK)
    CONVERSATIONS = conversation_files(DISK.conversations)
except NanochatError as error:
    one_sentence(error)

# Every rule's command is the `nanochat` beside the Python that runs Snakemake, and reads the config
# as Snakemake resolved it. In a SLURM job there is no network, and the command leaves a marker when
# it ends, so that the executor need not ask SLURM all the time.
BIN = Path(sys.executable).parent
os.environ.update(NANOCHAT_CONFIG=str(DISK.resolved_config))
offline = " ".join(f"{name}={value}" for name, value in OFFLINE.items())
shell.prefix(
    "set -euo pipefail; "
    f"export PATH={shlex.quote(str(BIN))}:$PATH "
    f"NANOCHAT_CONFIG={shlex.quote(str(DISK.resolved_config))}; "
    'if [ -n "${{SLURM_JOB_ID:-}}" ]; then '
    f"export {offline} NANOCHAT_ENDED={shlex.quote(str(DISK.ended))} "
    f"NANOCHAT_OUTCOMES={shlex.quote(str(DISK.outcomes))}; "
    """trap ': > "$NANOCHAT_ENDED/$SLURM_JOB_ID"' EXIT; fi; """
)

# The hosts that downloads may run on, as shell patterns; none: any host.
INTERNET_HOSTS = SITE.internet_hosts if SITE else ()
# What this config needs from the internet.
DOWNLOADS = CORPUS.shards if CORPUS.kind == "download" else ()

TRAIN_SHARDS = [f"{number:05d}" for number in DISK.shard_numbers]
VALIDATION_SHARD = f"{DISK.validation_number:05d}"
ALL_SHARDS = [*TRAIN_SHARDS, VALIDATION_SHARD]
# The generated tasks, as files of items to train on and to be tested with.
TASKS = {**CONFIG.mid.items, **CONFIG.sft.items}
ITEMS = {
    split: [DISK.task(name, split) for name in TASKS] for split in ("train", "test")
}
# The stages that train on conversations, and the stage whose model each starts from.
STAGE_BEFORE = {"mid": "base", "sft": "mid"}


wildcard_constraints:
    shard=r"\d+",
    stage="|".join(STAGE_BEFORE),


def threads_of(rule_kind):
    """Cores of a job: the site's, else all that Snakemake may use here."""
    if SITE is None:
        return workflow.cores
    return {"gpu": SITE.gpu.cpus, "cpu": SITE.cpu.cpus}[rule_kind]


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


def chat_stage_input(stage):
    """What a training on conversations reads: the model before it, its rows, and the held-out
    rows that every stage's bits per byte are measured on."""
    before = DISK.stage(STAGE_BEFORE[stage])
    rows = DISK.chat_rows(stage)
    return {
        "tokenizer": DISK.tokenizer_file,
        "model": ancient(before / "model.safetensors"),
        "model_record": before / "record.json",
        "rows": ancient([rows, rows.with_suffix(".mask.npy")]),
        "rows_record": rows.with_suffix(".json"),
        "validation": ancient(DISK.rows(VALIDATION_SHARD)),
        "validation_record": DISK.rows_record(VALIDATION_SHARD),
    }


def start_workflow():
    """Takes the base folder for this workflow and files the resolved config for its commands.

    The kernel drops the lock when this process ends, however it ends: no lock is ever stale.
    """
    global STARTED, WORKFLOW_LOCK
    STARTED = time.time()
    lock = DISK.base_dir / "workflow.lock"
    try:
        with disk_errors(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            WORKFLOW_LOCK = open(lock, "a")
            fcntl.flock(WORKFLOW_LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
        refuse_downloads_without_internet()
        prepare_for_slurm()
        write_text(DISK.resolved_config, CONFIG.yaml())
    except BlockingIOError:
        one_sentence(
            BadInput(
                f"another workflow is running in {DISK.base_dir} (it holds {lock}): "
                "wait for it or stop it; two at once would overwrite each other's files"
            )
        )
    except NanochatError as error:
        one_sentence(error)


def prepare_for_slurm():
    """What jobs on a cluster need before the first of them is submitted."""
    if SITE is None:
        if workflow.non_local_exec:
            raise ConfigError(
                "the profile names no site, so no job would know what to ask for: give its "
                "site.yaml too, --configfile profiles/NAME/site.yaml"
            )
        return
    name = job_name(CONFIG.run, DISK.base_dir)
    require_same_config(DISK.resolved_config, CONFIG, lambda: queued_jobs(name))
    for folder in (DISK.ended, DISK.outcomes):
        make_directory(folder)


def refuse_downloads_without_internet():
    """Ends in seconds, with nothing submitted, what would fail for want of internet later."""
    planned = {Path(file) for job in workflow.dag.needrun_jobs() for file in job.output}
    require_internet(
        [path for path in DOWNLOADS if path in planned and not path.exists()],
        platform.node(),
        INTERNET_HOSTS,
        download_command(sys.argv),
        DISK.logs / "missing_downloads.log",
    )


def announce():
    """Says where the report is and how to talk to the model, once both are there."""
    if DISK.report.is_file():
        print(f"\nThe report card:    {DISK.report}")
        command = os.path.relpath(BIN / "nanochat")
        print(f"Talk to your model: {command} chat --config {DISK.resolved_config}")


def explain_failure():
    """Repeats, last, the one sentence with which each failed command ended; exits with 2."""
    explained = False
    for log in sorted(DISK.logs.glob("**/*.log")):
        lines = log.read_text(errors="replace").splitlines()
        fresh = log.stat().st_mtime > STARTED
        if fresh and lines and lines[-1].startswith("error: "):
            print(f"\n{lines[-1]}\n  (the whole log: {log})", file=sys.stderr)
            explained = True
    if explained:
        raise SystemExit(NanochatError.exit_code)
