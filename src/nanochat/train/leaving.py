"""How training leaves before its last step: the journal's `stop`, and what is to happen next.

At a time limit the job asks SLURM to requeue it, and waits for SLURM to end it: it goes on under
its own id, from the checkpoint. Where SLURM refuses, and after a signal, exit code 75 (76 for a
SIGTERM inside a job: preemption) asks whoever started the command to start it again; 93 after a
person's STOP asks that nobody does.
"""

import time
from typing import NoReturn

from nanochat.errors import NoProgress, Preempted, SlurmUnavailable, StoppedByHand, StoppedEarly
from nanochat.hpc import slurm
from nanochat.hpc.deadline import Deadline
from nanochat.track.journal import Journal
from nanochat.train.boundary import DEADLINE, SUPERSEDED, SWITCH
from nanochat.train.job import Job, LoopState

SECONDS_FOR_SLURM = 120.0
"""How long SLURM may take to end a job that it has requeued."""
AGAIN = "run the same command to continue"


def leave(
    job: Job, state: LoopState, journal: Journal, deadline: Deadline, why: str, steps_made: int
) -> NoReturn:
    """Ends training on all ranks, after the save. `steps_made` counts this process's steps.

    Raises NoProgress where the time limit came before a step, else StoppedEarly. No rank leaves
    before rank 0 is done: srun may kill the others as soon as one ends.
    """
    try:
        if why == DEADLINE and steps_made == 0:
            _note(job, state, journal, why, requeued=False)
            raise NoProgress(_no_progress(job, deadline))
        sentence = _stopped(job, state, journal, deadline, why)
        if why == SWITCH:
            raise StoppedByHand(sentence)
        if why == "SIGTERM" and job.group.from_first(float(deadline.job is not None)):
            raise Preempted(sentence)
        raise StoppedEarly(sentence)
    finally:
        job.group.wait()


def _stopped(job: Job, state: LoopState, journal: Journal, deadline: Deadline, why: str) -> str:
    """Does what rank 0 has to do, and returns the sentence for people."""
    where = f"step {state.step} of {job.steps}"
    if why == SUPERSEDED:
        if not deadline.restarted:  # else the journal is another process's
            _note(job, state, journal, why, requeued=False)
        return f"SLURM ended this job while {job.stage} training was at {where}: nothing was saved"
    if why != DEADLINE:
        _note(job, state, journal, why, requeued=False)
        saved = "its checkpoint is saved: " if state.step else ""
        if why == SWITCH:
            file = job.switches / SWITCH if job.switches else SWITCH
            return (
                f"{file} stopped {job.stage} training after {where}; {saved}remove it and {AGAIN}"
            )
        return f"{why} stopped {job.stage} training after {where}; {saved}{AGAIN}"
    near = f"{job.stage}: time limit near after {where}; saved"
    if not job.group.is_first or deadline.job is None:
        return f"{near}: {AGAIN}"
    try:
        slurm.requeue(deadline.job.id)
    except SlurmUnavailable as exc:
        _note(job, state, journal, why, requeued=False)
        return f"{near}, but job {deadline.job.id} cannot be requeued ({exc}): {AGAIN}"
    _note(job, state, journal, why, requeued=True)
    sentence = f"{near}; job {deadline.job.id} is requeued"
    print(sentence, flush=True)
    time.sleep(SECONDS_FOR_SLURM)  # signals only set a flag; SLURM's SIGKILL ends this
    return sentence


def _no_progress(job: Job, deadline: Deadline) -> str:
    return (
        f"{job.stage} made no step before its job's time limit, {deadline.seconds_left():.0f} s "
        "away: ask for a longer time limit, or lower operation.leave_before_limit_seconds"
    )


def _note(job: Job, state: LoopState, journal: Journal, why: str, requeued: bool) -> None:
    job.note(journal, "stop", state.step, reason=why, requeued=requeued)
