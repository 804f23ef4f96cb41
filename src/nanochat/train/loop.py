"""The training loop, one for every stage.

    result = train(job, store, journal, deadline)

A step (train/step.py): the rows of the step, of which each rank takes its share; gradients
accumulated over micro-batches to the total batch; a look at them; the update. After it, in this
order: a line in the journal, the save that is due (train/saver.py) begins, training leaves if a
signal or the time limit asks for it, or validates. The state is weights, optimizer, random states
and a few numbers (job.LoopState); schedules and data follow from the step number, so that a resumed
training ends with the same bits as an undisturbed one.

Writes checkpoints (train/checkpoints.py) and the journal; prints step lines: rank 0 only.
"""

import math
import platform
import sys
import time

from nanochat.errors import DamagedArtefact, NotSaved, TrainingDiverged
from nanochat.hpc.deadline import Deadline
from nanochat.hpc.processes import own_start
from nanochat.track.journal import Journal
from nanochat.train.beside import started_afresh
from nanochat.train.boundary import DEADLINE, SUPERSEDED, Agreement, Boundary
from nanochat.train.checkpoint_diff import differing_values
from nanochat.train.checkpoints import CheckpointStore
from nanochat.train.job import Job, LoopState, TrainingResult, peak_memory_bytes
from nanochat.train.leaving import leave
from nanochat.train.lines import StepLines
from nanochat.train.resume import resume, set_aside
from nanochat.train.saver import SaveEnded, Saver
from nanochat.train.say import say
from nanochat.train.spikes import SpikeDetector
from nanochat.train.step import StepMade, Stepper
from nanochat.train.stop import StopFlag
from nanochat.train.stragglers import StepTimes, describe
from nanochat.train.watchdog import Section

STEPS_BETWEEN_COMPARISONS = 50
"""After so many steps the ranks compare how long they take."""
PATIENCE_FOR_ROOM = 600.0
"""Seconds for which the last save waits for a disk that is full ..."""
SECONDS_BETWEEN_TRIES = 10.0
SECONDS_TO_LEAVE = 30.0
"""... and how long before the time limit it gives up."""


def train(
    job: Job, store: CheckpointStore, journal: Journal, deadline: Deadline | None = None
) -> TrainingResult:
    """Trains to the last step, from the newest checkpoint if there is one.

    All ranks call it; all raise what ends it: TrainingDiverged where numbers stop being finite,
    StoppedEarly after a signal or near the time limit, NoProgress where the limit came before a
    step, NotSaved where the last checkpoint could not be written.
    """
    deadline = deadline or Deadline()
    if job.group.is_first:
        store.clean()
    restored = resume(job, store)
    if restored is None:
        _require_that_nothing_was_lost(job, store)
    state = restored or LoopState()
    if job.group.is_first:
        _say_where_it_begins(job, restored, store)
    _note_start(job, state, journal, deadline)
    with StopFlag() as stop, Saver(job, store) as saver:
        boundary = Boundary(job, stop, deadline, state.step)
        training = _Training(job, state, store, journal, saver, boundary)
        try:
            state = training.run()
        except (TrainingDiverged, NotSaved) as exc:
            job.note(journal, "stop", training.state.step, reason=str(exc), requeued=False)
            raise
        bpb = training.validate()
    job.note(journal, "end", state.step)
    return TrainingResult(
        steps=state.step,
        tokens=state.tokens,
        train_loss=state.loss(),
        validation_bpb=bpb,
        seconds=state.seconds,
        tokens_per_second=state.tokens / max(state.seconds, 1e-9),
        peak_memory_bytes=peak_memory_bytes(),
    )


def _require_that_nothing_was_lost(job: Job, store: CheckpointStore) -> None:
    """Raises DamagedArtefact, on all ranks, where there were checkpoints, and none is whole."""
    lost = int(job.group.from_first(float(len(job.put_aside))))
    if lost:
        raise DamagedArtefact(
            f"{job.stage}: all {lost} checkpoints are damaged, and lie in {store.folder} as "
            "damaged-step-...: bring a whole one back there as step-NNNNNN, or run again to start "
            "from step 1"
        )


def _say_where_it_begins(job: Job, restored: LoopState | None, store: CheckpointStore) -> None:
    if restored is not None:
        done = " (its last; the model is made of it)" if restored.step == job.steps else ""
        say(f"{job.stage} resumes after step {restored.step} of {job.steps}{done}")
        before, now = store.manifest(restored.step)["identity"], store.identity.parts
        pair = (parts.get("computing", {"": ""}) for parts in (before, now))
        found = [f"{each.name} {each.one}, now {each.other}" for each in differing_values(*pair)]
        if found:
            say(f"{job.stage} computes in another way ({'; '.join(found)}): equal to rounding only")
    elif sentence := started_afresh(job.stage, store.folder.parent, store.identity):
        say(sentence)


def _note_start(job: Job, state: LoopState, journal: Journal, deadline: Deadline) -> None:
    own = deadline.job
    job.note(
        journal,
        "start",
        state.step,
        steps=job.steps,
        job_id=own.id if own else None,
        restarts=deadline.restarts or 0,
        host=platform.node(),
        world_size=job.group.world_size,
        process_started=round(own_start(), 3),
    )


class _Training:
    """Steps, saves and validations up to the last step's save."""

    def __init__(
        self,
        job: Job,
        state: LoopState,
        store: CheckpointStore,
        journal: Journal,
        saver: Saver,
        boundary: Boundary,
    ) -> None:
        self.job, self.state, self.store, self.journal = job, state, store, journal
        self.saver, self.boundary = saver, boundary
        self.stepper = Stepper(job, saver)
        self.device_rows = job.device_rows
        self.spikes = SpikeDetector(state.recent_losses)
        self.steps_made = 0
        """By this process."""
        self.rolled_back_to: int | None = None
        """The step gone back to, while no step after it was sound."""
        self.times = StepTimes(STEPS_BETWEEN_COMPARISONS)
        self.lines = StepLines(job)

    def run(self) -> LoopState:
        """Returns the state after the last step; raises what `leave` raises before it."""
        job = self.job
        self._note_put_aside()
        share = self.stepper.read(self.state)
        agreed = self._agree(share.targets)
        if self.state.step and self._validation_is_due(agreed):
            self.validate()  # the attempt before may have been killed in it
        while self.state.step < job.steps and agreed.leave is None:
            made = self.stepper.step(self.state, share, agreed.targets)
            self.steps_made += 1
            self._count(made)
            share = self.stepper.read(self.state)
            agreed = self._agree(share.targets)
            if agreed.out_of_memory:
                self._take_fewer_rows()
            self._save(agreed)
            self.lines.print(self.state, made.seconds)
            self._compare_ranks()
            if self._validation_is_due(agreed):
                self.validate()
        job.enter(Section.LEAVE, self.state.step)
        if agreed.leave is not None:
            deadline = self.boundary.deadline
            leave(job, self.state, self.journal, deadline, agreed.leave, self.steps_made)
        return self.state

    def validate(self) -> float:
        """Bits per byte of held-out text; all ranks. A save that is under way is finished first, so
        that no validation can cost a checkpoint."""
        self._report(self.saver.settle())
        self.job.enter(Section.EVALUATE, self.state.step)
        start = time.monotonic()
        bpb = self.job.validate(self.stepper.device_rows)
        seconds = time.monotonic() - start
        self.boundary.took("validation", seconds)
        if math.isfinite(bpb):
            if self.job.group.is_first and self.boundary.saved_step == self.state.step:
                self.store.score(self.state.step, bpb)
            self._note("validation", bpb=bpb, seconds=round(seconds, 3))
        self._say(f"step {self.state.step:05d} | validation {bpb:.4f} bits per byte")
        return bpb

    # --- after a step ---------------------------------------------------------------------------

    def _agree(self, targets: int) -> Agreement:
        self.job.enter(Section.AGREE, self.state.step + 1)
        agreed = self.boundary.agree(self.state, targets, self.stepper.ran_out_of_memory)
        self.stepper.ran_out_of_memory = False
        return agreed

    def _count(self, made: StepMade) -> None:
        """Counts a step, journals it, and goes back to a checkpoint where too many were unsound."""
        state, loader = self.state, self.job.loader
        multipliers = self.job.multipliers(state.step)
        tokens = loader.rows_per_step * loader.sequence_len
        state.step += 1
        state.tokens += tokens
        state.seconds += made.seconds
        if self.steps_made > 1:  # the first one compiles, the next will not be as slow
            self.boundary.took("step", made.seconds)
        self.times.add(made.compute_seconds, made.data_seconds)
        sound: dict[str, object] = {"skipped": True}
        if made.is_sound:
            state.add_loss(made.loss)
            state.unsound_in_a_row = 0
            self.rolled_back_to = None
            sound = {"loss": made.loss, "grad_norm": made.gradient_norm}
        self._note(
            "step",
            **sound,
            lr_multiplier=multipliers.learning_rate,
            tokens=state.tokens,
            tokens_per_second=round(tokens / made.seconds, 1),
            memory_bytes=peak_memory_bytes(),
            seconds=round(made.seconds, 6),
            data_seconds=round(made.data_seconds, 6),
            stall_seconds=round(made.stall_seconds, 6),
        )
        if made.is_sound:
            self._look_for_a_spike(made.loss)
        else:
            self._unsound(made)

    def _look_for_a_spike(self, loss: float) -> None:
        spike = self.spikes.look(loss)
        self.state.recent_losses = self.spikes.window
        if spike is not None:
            self._note("spike", loss=loss, median=spike.median, score=round(spike.score, 1))
            self._say(
                f"step {self.state.step}: loss {loss:.4f} is a spike, the median of the last steps "
                f"is {spike.median:.4f}"
            )

    def _unsound(self, made: StepMade) -> None:
        """A loss or gradient was not finite: the update was not made, on any rank."""
        operation, state = self.job.operation, self.state
        state.unsound_in_a_row += 1
        seen = f"step {state.step}: the loss is {made.loss} or a gradient is not finite"
        if operation.on_nonfinite == "stop":
            self._diverged(made, f"{seen}; the update was not made")
        self._say(f"{seen}: the update is left out")
        if state.unsound_in_a_row < operation.roll_back_after_steps:
            return
        row = f"{state.unsound_in_a_row} steps in a row, up to {state.step}, were not finite"
        if state.rollbacks == operation.rollbacks:
            self._diverged(made, f"{row}, after going back {state.rollbacks} times")
        self._roll_back(made, row)

    def _roll_back(self, made: StepMade, why: str) -> None:
        """To the newest checkpoint, and on from there with the rows that come next."""
        self.job.enter(Section.START, self.state.step)
        self._report(self.saver.settle())
        before = self.state
        others = self.job.group.from_first(float(len(self.store.steps()) > 1))
        if self.rolled_back_to is not None and others:
            self._put_aside(self.rolled_back_to, "training did not get beyond it")
        while (restored := resume(self.job, self.store)) and restored.unsound_in_a_row:
            self._put_aside(restored.step, "it was saved among steps without an update")
        self._note_put_aside()
        if restored is None:
            self._diverged(made, f"{why}, and there is no checkpoint to go back to")
        assert restored is not None
        restored.passed_over = before.data_step - restored.step
        restored.rollbacks = before.rollbacks + 1
        self.state = restored
        self.rolled_back_to = restored.step
        self.spikes = SpikeDetector(restored.recent_losses)
        self.boundary.saved_step = restored.step
        self.boundary.save_soon()
        self._note("rollback", from_step=before.step, reason=why)
        self._say(f"{why}: back to step {restored.step}, and on with the rows after these")

    def _put_aside(self, step: int, why: str) -> None:
        set_aside(self.job, self.store, step, f"{self.store.path(step)}: {why}")

    def _note_put_aside(self) -> None:
        while self.job.put_aside:
            step, why = self.job.put_aside.pop(0)
            self.job.note(self.journal, "set_aside", step, reason=why)

    def _diverged(self, made: StepMade, why: str) -> None:
        self._report(self.saver.settle())
        self._note("diverged", loss=repr(made.loss))
        self.job.group.wait()
        raise TrainingDiverged(
            f"{self.job.stage} {why}; {self._what_stands()}: lower base.lr_scale"
        )

    def _take_fewer_rows(self) -> None:
        """All ranks take as many rows at a time as fit on each of them, at the next start too."""
        before, rows = (
            self.device_rows,
            int(min(self.job.group.gather(float(self.stepper.device_rows)))),
        )
        self.stepper.device_rows = self.device_rows = rows
        self._note("out_of_memory", rows_before=before, rows_now=rows)
        self._say(f"out of memory: {rows} rows at a time from now on; the batch stays the same")
        if self.job.group.is_first:
            self.job.remember_rows(rows)

    def _compare_ranks(self) -> None:
        group = self.job.group
        if group.world_size == 1 or self.state.step % STEPS_BETWEEN_COMPARISONS:
            return
        own_compute, own_data = self.times.medians()
        compute, data = group.gather(own_compute), group.gather(own_data)
        straggler = describe(compute, data, group.gather_text(platform.node()))
        self._note(
            "ranks",
            seconds=[round(each, 4) for each in compute],
            data_seconds=[round(each, 4) for each in data],
            slowest=straggler.rank,
            host=straggler.host,
        )
        told = straggler.sentence
        if told:
            self._say(told)

    def _validation_is_due(self, agreed: Agreement) -> bool:
        """At the interval; the one after the last step is made in any case, so not here."""
        step = self.state.step
        due = step % self.job.operation.validate_every_steps == 0 and step < self.job.steps
        return due and agreed.leave is None and agreed.room_to_validate

    # --- saving ---------------------------------------------------------------------------------

    def _save(self, agreed: Agreement) -> None:
        """Looks after a save that is under way, and begins the one that is due."""
        self.job.enter(Section.SAVE, self.state.step)
        if agreed.leave == SUPERSEDED:
            return
        self._report(self.saver.look())
        last = agreed.leave is not None or self.state.step == self.job.steps
        if last:
            self._save_before_leaving(agreed.leave)
        elif agreed.save and not self.saver.is_busy:
            self._begin()
        if self.job.operation.save_every_minutes == 0:
            self._report(self.saver.settle())

    def _begin(self) -> None:
        self.boundary.saving()
        self._report(self.saver.begin(self.state))

    def _save_before_leaving(self, why: str | None) -> None:
        """Waits for the save, and for a disk that is full for a while; raises NotSaved where there
        is no checkpoint of the last step in the end."""
        self.job.enter(Section.LAST_SAVE, self.state.step)
        self._report(self.saver.settle())
        end = time.monotonic() + self._patience(why)
        while self.state.step > self.boundary.saved_step:
            ended = self.saver.begin(self.state) or self.saver.settle()
            self._report(ended)
            if ended is None or ended.error is None:
                continue
            waits = time.monotonic() < end and self.boundary.stop.requested is None
            if not self.job.group.from_first(float(waits)):
                raise NotSaved(
                    f"{self.job.stage} step {self.state.step} could not be saved ({ended.error}); "
                    f"{self._what_stands()}: free some space and run again to continue"
                )
            time.sleep(SECONDS_BETWEEN_TRIES)

    def _patience(self, why: str | None) -> float:
        """Seconds in which somebody may make room; few where SLURM or a person waits."""
        left = self.boundary.deadline.seconds_left() - SECONDS_TO_LEAVE
        return min(PATIENCE_FOR_ROOM, left) if why in (None, DEADLINE) else 0.0

    def _what_stands(self) -> str:
        steps = self.store.steps()
        return f"the checkpoint of step {steps[-1]} stands" if steps else "nothing is saved"

    def _report(self, ended: SaveEnded | None) -> None:
        """Journals how a save ended."""
        if ended is None:
            return
        took = {
            "seconds": round(ended.seconds, 3),
            "stall_seconds": round(ended.stall_seconds, 4),
        }
        if ended.error is None:
            self.boundary.saved(ended.step, ended.seconds)
            self.job.note(self.journal, "checkpoint", ended.step, **took, bytes=ended.bytes)
            return
        self.boundary.not_saved()
        self.job.note(self.journal, "save_failed", ended.step, **took, reason=ended.error)
        if self.job.group.is_first:
            say(
                f"warning: {self.job.stage} step {ended.step} was not saved, training goes on: "
                f"{ended.error}",
                sys.stderr,
            )

    def _note(self, event: str, **fields: object) -> None:
        self.job.note(self.journal, event, self.state.step, **fields)

    def _say(self, sentence: str) -> None:
        if self.job.group.is_first:
            say(f"{self.job.stage} {sentence}")
