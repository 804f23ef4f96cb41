"""A run of the workflow on the test cluster, and everything that can happen to it there.

Used by the tests beside it and by random_trouble.py. Every command goes through `cluster.py exec`,
so that it works as well where the cluster has no network but loopback.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = [sys.executable, str(ROOT / "tests" / "cluster" / "cluster.py")]
INSIDE = [*CLUSTER, "exec", "--"]

# Two layers and 1,024 tokens a step: some 30 steps a second on two ranks, a checkpoint every two
# seconds, so that there is always one and never the last step.
CONFIG: dict[str, Any] = {
    "data": {"source": "texts", "train_shards": 2},
    "tokenizer": {"vocab_size": 512, "max_characters": 400_000},
    "model": {"depth": 2, "aspect_ratio": 16, "head_dim": 16, "sequence_len": 128},
    "base": {"steps": 400, "total_batch_tokens": 1024},
    "mid": {"items": {"spelling": 40, "identity": 20}, "total_batch_tokens": 1024},
    "sft": {"items": {"spelling": 20, "identity": 20}, "total_batch_tokens": 1024},
    "chat": {"test_items": 10},
    "evaluation": {"validation_tokens": 4096, "core_items": 8, "chat_items": 8, "batch_rows": 8},
    "operation": {
        "device_rows": 8,
        "save_every_minutes": 0.03,
        "validate_every_steps": 1_000_000,
        "leave_before_limit_seconds": 5,
        "compile": "off",
    },
}


def on_cluster(*command: str, check: bool = True) -> str:
    """What a command prints where the cluster is."""
    done = subprocess.run([*INSIDE, *command], capture_output=True, text=True, timeout=60)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def cluster(*command: str) -> None:
    """A sub-command of cluster.py: stop-node, start-controller, ..."""
    subprocess.run([*CLUSTER, *command], check=True, timeout=120, capture_output=True)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    """The first true value of `condition`; fails after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


@dataclass
class ClusterRun:
    """One run (its own name) in a copy of the workflow."""

    folder: Path
    name: str
    nodes: int = 1
    gpus_per_node: int = 2
    steps: int = 400
    variables: dict[str, str] = field(default_factory=dict)
    prefix: list[str] = field(default_factory=list)

    # --- where things are -------------------------------------------------------------------

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    @property
    def base_dir(self) -> Path:
        return self.scratch / "nanochat"

    def record(self, stage: str = "base") -> dict[str, Any]:
        """The record of a finished stage."""
        path = self.base_dir / "models" / self.name / stage / "record.json"
        value: dict[str, Any] = json.loads(path.read_text())
        return value

    def events(self, *kinds: str, stage: str = "base") -> list[dict[str, Any]]:
        """The journal's events of some kinds."""
        path = self.base_dir / "runs" / self.name / "journal.jsonl"
        if not path.exists():
            return []
        lines = [line for line in path.read_text().split("\n") if line.endswith("}")]
        events = [json.loads(line) for line in lines]
        return [e for e in events if e["event"] in kinds and e.get("stage") == stage]

    # --- the workflow -----------------------------------------------------------------------

    def command(self, *arguments: str) -> list[str]:
        config = [f"run={self.name}", f"base={{steps: {self.steps}}}"]
        return [
            *INSIDE,
            *self.prefix,
            *(sys.executable, "-m", "snakemake", "--profile", "profiles/ptolemy"),
            *("--config", *config, "--latency-wait", "10", *arguments),
        ]

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "NANOCHAT_SCRATCH": str(self.scratch),
            "NANOCHAT_NODES": str(self.nodes),
            "NANOCHAT_GPUS_PER_NODE": str(self.gpus_per_node),
            "OMP_NUM_THREADS": "1",
            **self.variables,
        }

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Starts the head process; its output goes into head.log."""
        with open(self.folder / f"head-{self.name}.log", "ab") as log:
            return subprocess.Popen(
                self.command(*arguments),
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def output(self) -> str:
        """What all head processes of this run printed."""
        return (self.folder / f"head-{self.name}.log").read_text()

    def finish(self, head: "subprocess.Popen[bytes]", seconds: float = 240) -> int:
        """Waits for the head; its exit code."""
        try:
            return head.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            raise AssertionError(f"the workflow hangs:\n{self.output()[-3000:]}") from None

    def run(self, *arguments: str, expect: int = 0, seconds: float = 240) -> str:
        """Starts the head, waits for its end, and returns what it printed."""
        code = self.finish(self.start(*arguments), seconds)
        assert code == expect, f"exit code {code}:\n{self.output()[-4000:]}"
        return self.output()

    def kill_head(self, head: "subprocess.Popen[bytes]") -> None:
        """SIGKILL to Snakemake and what it started here; jobs on the cluster go on."""
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()

    # --- its jobs ---------------------------------------------------------------------------

    def jobs(self, rule: str = "base_train", states: str = "") -> list[tuple[str, str, str]]:
        """(id, state, nodes) of the run's jobs of a rule that are in the queue."""
        chosen = [f"--states={states}"] if states else []
        lines = on_cluster("squeue", "-h", *chosen, "-o", "%A|%T|%N|%j|%k").splitlines()
        rows = [line.split("|") for line in lines]
        return [
            (row[0], row[1], row[2])
            for row in rows
            if len(row) == 5 and row[3].startswith(f"nanochat-{self.name}-") and rule in row[4]
        ]

    def running(self, rule: str = "base_train") -> tuple[str, str]:
        """Id and nodes of the job that runs now."""
        found = wait_until(lambda: self.jobs(rule, "RUNNING"), f"a running job of {rule}")
        return found[0][0], found[0][2]

    def newest_step(self) -> int:
        """Steps that the training has made, by the journal's last line."""
        steps = self.events("step")
        return int(steps[-1]["step"]) if steps else 0

    def wait_for_progress(self, steps: int = 30, seconds: float = 120) -> None:
        """Until this many more steps were made, with a job running."""
        before = len(self.events("step"))
        wait_until(
            lambda: len(self.events("step")) >= before + steps,
            f"{steps} more steps of {self.name}:\n" + self.output()[-2000:],
            seconds,
        )

    def rank_processes(self) -> list[int]:
        """Process ids of the run's trainers on this machine."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                command = (path / "cmdline").read_bytes().split(b"\0")
                environment = (path / "environ").read_bytes()
            except OSError:
                continue
            is_trainer = b"train" in command and b"base" in command and b"python" in command[0]
            if is_trainer and f"runs/{self.name}/".encode() in environment:
                found.append(int(path.name))
        return found


def assert_one_writer(run: ClusterRun) -> None:
    """After each start, steps go up one by one from the checkpoint: nobody wrote between."""
    expected = None
    for event in run.events("start", "step"):
        if event["event"] == "start":
            expected = event["step"] + 1
            continue
        assert event["step"] == expected, f"step {event['step']} where {expected} was due"
        expected += 1


def copy_of_workflow(folder: Path, texts: list[str]) -> None:
    """The workflow's files, a toy config and some texts."""
    for name in ("workflow", "profiles", "config"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "scratch").mkdir()
    (folder / "texts").mkdir()
    for number, text in enumerate(texts):
        passages = [text[start : start + 1000] for start in range(0, len(text), 1000)]
        lines = [json.dumps({"text": passage}) for passage in passages]
        (folder / "texts" / f"{number:04d}.jsonl").write_text("\n".join(lines))


# --- trouble --------------------------------------------------------------------------------------


def preempt(run: ClusterRun) -> None:
    """A job of a partition with a higher priority takes the node's GPUs for a moment."""
    _, node = run.running()
    on_cluster(
        *("sbatch", "--parsable", "-A", "class-cse8990", "-p", "gpu-urgent", "-N", "1", "-w", node),
        *("--gpus=a100:8", "-t", "1", "-o", "/dev/null", "--mem=100", "--wrap", "sleep 2"),
    )


def requeue(run: ClusterRun) -> None:
    """An operator requeues the job."""
    on_cluster("scontrol", "requeue", run.running()[0])


def kill_rank(run: ClusterRun) -> None:
    """SIGKILL to one of the ranks, as the kernel does when memory runs out."""
    run.running()
    os.kill(wait_until(run.rank_processes, "a rank's process")[-1], signal.SIGKILL)


def stray_signal(run: ClusterRun) -> None:
    """SIGUSR1, as of `--signal`, to one rank only."""
    run.running()
    os.kill(wait_until(run.rank_processes, "a rank's process")[0], signal.SIGUSR1)


def lose_node(run: ClusterRun) -> None:
    """A power cut of the node; it comes back later."""
    _, node = run.running()
    cluster("stop-node", node, "--kill")
    wait_until(lambda: node not in str(run.jobs(states="RUNNING")), "the node's failure", 90)
    cluster("start-node", node)


def lose_slurmd(run: ClusterRun) -> None:
    """The node's slurmd dies, and the trainer on it goes on, unseen by SLURM."""
    _, node = run.running()
    cluster("stop-node", node)
    wait_until(lambda: node not in str(run.jobs(states="RUNNING")), "the node's failure", 90)
    cluster("start-node", node)


def one_minute(run: ClusterRun) -> None:
    """The job's time limit becomes one minute."""
    on_cluster("scontrol", "update", f"JobId={run.running()[0]}", "TimeLimit=1")
