"""Records what squeue and sacct print of a job of every kind, for test_slurm_text.py.

    make cluster-up && python tests/hpc/record.py

Needs the test cluster; takes two minutes. Writes recorded/squeue.txt and recorded/sacct.txt.
"""

import subprocess
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from unittest.mock import patch

from nanochat.hpc import slurm

NAME = "nanochat-demo-0123abcd"
RECORDED = Path(__file__).parent / "recorded"
WHOLE_NODE = ("--nodelist=gpu01", "--nodes=1", "--gpus-per-node=8")


def submit(command: str, *options: str) -> str:
    common = ["sbatch", "--parsable", "--account=class-cse8990", "--chdir=/tmp", "--mem=100",
              "--output=/dev/null", f"--job-name={NAME}"]  # fmt: skip
    argv = [*common, *options, f"--wrap={command}"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def record(ask: Callable[[], object], file: str) -> None:
    """Files what the command behind `ask` prints."""
    run = slurm.run

    def recorded(command: list[str]) -> str:
        text = run(command)
        (RECORDED / file).write_text(text)
        return text

    with patch.object(slurm, "run", recorded):
        ask()


def main() -> None:
    submit("sleep 1", "--comment=rule_chat_eval_wildcards_mid")
    submit("echo 'error: x'; exit 2", "--comment=rule_base_eval")
    submit("sleep 400", "--comment=rule_mid_train", "--time=1")
    cancelled = submit("sleep 400", "--comment=rule_tokenize_shard_wildcards_00003")
    left = [
        submit("sleep 400", "--comment=rule_chat_sft", "--partition=gpu-a100", *WHOLE_NODE),
        submit("sleep 1", "--comment=rule_report", "--begin=now+600"),
        submit("sleep 1", "--comment=rule_chat_rows_wildcards_sft", "--hold"),
    ]
    requeued = submit("sleep 400", "--comment=rule_base_train")
    time.sleep(4)
    subprocess.run(["scancel", cancelled], check=True)
    slurm.requeue(requeued)
    urgent = ("--partition=gpu-urgent", "--job-name=urgent", *WHOLE_NODE)
    left += [requeued, submit("sleep 400", *urgent)]
    time.sleep(100)
    since = datetime.now() - timedelta(minutes=10)
    record(lambda: slurm.queued_jobs(NAME), "squeue.txt")
    record(lambda: slurm.past_jobs(NAME, since), "sacct.txt")
    subprocess.run(["scancel", *left], check=True)


if __name__ == "__main__":
    main()
