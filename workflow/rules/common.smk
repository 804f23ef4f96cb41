# What the rules share: the resolved config, the user's text, and the hooks of a workflow.

import fcntl
import os
import shlex
import sys
import time
from pathlib import Path

from nanochat.config import STAGES, Config
from nanochat.data.layout import conversation_files, corpus_layout
from nanochat.data.sources import content_fingerprint
from nanochat.errors import BadInput, NanochatError
from nanochat.files import disk_errors, require_writable, write_text


def one_sentence(error):
    """Ends Snakemake as the commands end: the sentence alone, and the error's exit code."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(error.exit_code)


try:
    CONFIG = Config.resolve(config)
    DISK = CONFIG.disk
    require_writable(DISK.base_dir)
    CORPUS = corpus_layout(DISK.source, DISK.corpus, CONFIG.data.train_shards)
    CONVERSATIONS = conversation_files(DISK.conversations)
except NanochatError as error:
    one_sentence(error)

# Every rule's command is the `nanochat` beside the Python that runs Snakemake, and reads the config
# as Snakemake resolved it.
BIN = Path(sys.executable).parent
shell.prefix(
    f"export PATH={shlex.quote(str(BIN))}:$PATH "
    f"NANOCHAT_CONFIG={shlex.quote(str(DISK.resolved_config))}; "
)

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
