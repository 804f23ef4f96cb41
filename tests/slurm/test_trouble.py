"""What a cluster does to a training: it goes on by itself where it should, stops where it should,
and ends with the weights of an undisturbed one, bit for bit."""

import os
import re
import signal
import time

import cluster_run as trouble
import pytest
import random_trouble
from cluster_run import ClusterRun, assert_one_writer, cluster, on_cluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(400)]

BASE = ("--until", "base_train")


def assert_like_undisturbed(run: ClusterRun, road: ClusterRun) -> None:
    assert_one_writer(run)
    assert run.record()["weights_sha256"] == road.record()["weights_sha256"]


def train_with(disturb, run: ClusterRun, undisturbed: ClusterRun) -> None:
    """Trains `run` as `undisturbed` was, disturbs it once, and compares them."""
    run.steps = undisturbed.steps
    head = run.start(*BASE)
    run.wait_for_progress()
    disturb(run)
    assert run.finish(head) == 0, run.output()[-3000:]
    assert len(run.events("start")) > 1, "it was not disturbed"
    assert_like_undisturbed(run, undisturbed)


@pytest.mark.parametrize(
    "disturb",
    [
        trouble.preempt,
        trouble.requeue,
        trouble.kill_rank,
        trouble.stray_signal,
        trouble.lose_node,
    ],
    ids=lambda function: function.__name__,
)
def test_a_disturbed_training_resumes_by_itself(road: ClusterRun, run: ClusterRun, disturb) -> None:
    train_with(disturb, run, road)


@pytest.mark.parametrize(
    "disturb", [trouble.lose_slurmd, trouble.one_minute], ids=lambda function: function.__name__
)
def test_a_long_training_resumes_by_itself(
    long_training: ClusterRun, run: ClusterRun, disturb
) -> None:
    train_with(disturb, run, long_training)


def test_rounds_of_random_trouble_end_in_the_same_weights(
    long_training: ClusterRun, run: ClusterRun
) -> None:
    run.steps = long_training.steps
    random_trouble.disturb_at_random(run, rounds=2, seed=1)
    assert_like_undisturbed(run, long_training)


def test_a_hung_training_runs_into_its_limit_and_resumes(road: ClusterRun, run: ClusterRun) -> None:
    head = run.start(*BASE)
    run.wait_for_progress()
    for process in run.rank_processes():
        os.kill(process, signal.SIGSTOP)
    trouble.one_minute(run)
    assert run.finish(head, 300) == 0, run.output()[-3000:]
    assert "ended as TIMEOUT" in run.output()
    assert_like_undisturbed(run, road)


def test_a_cancelled_training_stays_cancelled_until_it_is_started_again(
    road: ClusterRun, run: ClusterRun
) -> None:
    head = run.start(*BASE)
    run.wait_for_progress()
    job, _ = run.running()
    on_cluster("scancel", job)
    assert run.finish(head) != 0
    assert "it was cancelled: start the workflow again to continue" in run.output()
    assert not [state for _, state, _ in run.jobs() if state in ("PENDING", "RUNNING")]
    run.run(*BASE)
    assert_like_undisturbed(run, road)


def test_a_workflow_started_after_a_killed_one_waits_for_its_job(
    road: ClusterRun, run: ClusterRun
) -> None:
    head = run.start(*BASE)
    run.wait_for_progress()
    job, _ = run.running()
    run.kill_head(head)
    output = run.run(*BASE)
    assert f"is already in the queue as SLURM job {job}" in output
    assert {job_id for job_id, *_ in run.jobs(states="all")} == {job}, "it was submitted twice"
    assert len(run.events("start")) == 1
    assert_like_undisturbed(run, road)
    again = run.run("-n", *BASE, "--config", f"run={run.name}", "base={steps: 401}")
    assert "Params have changed since last execution" in again


def test_a_changed_config_is_refused_while_jobs_of_the_old_one_run(run: ClusterRun) -> None:
    head = run.start(*BASE)
    run.wait_for_progress()
    run.kill_head(head)
    run.steps += 1
    output = run.run(*BASE, expect=2)
    assert re.search(
        r"error: 1 jobs of an earlier workflow \(base_train\) are in the queue", output
    )


def test_a_second_workflow_is_refused(run: ClusterRun) -> None:
    head = run.start(*BASE)
    run.wait_for_progress()
    output = run.run(*BASE, expect=2)
    assert "error: another workflow is running in" in output
    run.kill_head(head)


def test_a_controller_that_is_away_for_a_minute_fails_nothing(
    road: ClusterRun, run: ClusterRun
) -> None:
    head = run.start(*BASE)
    run.wait_for_progress()
    cluster("stop-controller")
    try:
        time.sleep(60)
        assert head.poll() is None, run.output()[-3000:]
    finally:
        cluster("start-controller")
    assert run.finish(head) == 0, run.output()[-3000:]
    assert_like_undisturbed(run, road)


def test_two_nodes_train_with_four_ranks(road: ClusterRun, run: ClusterRun) -> None:
    run.nodes, run.steps = 2, 40
    run.run(*BASE)
    start = run.events("start")[0]
    assert start["world_size"] == 4
    jobs = on_cluster("sacct", "-X", "-n", "-P", "-o", "Comment,NodeList,NTasks,AllocTRES")
    base = [line for line in jobs.splitlines() if line.startswith("rule_base_train|gpu[01-02]")]
    assert "gres/gpu:a100=4" in base[-1]


def test_an_error_that_would_come_again_is_not_submitted_again(run: ClusterRun) -> None:
    run.variables["NANOCHAT_DTYPE"] = "float7"
    output = run.run(*BASE, expect=2)
    assert "NANOCHAT_DTYPE is 'float7'" in output
    assert "running it again would end the same way" in output
    assert len(run.jobs(states="all")) == 1
