"""Every second of a training is in exactly one part, and the advice is what the formula says."""

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.track.goodput import PARTS, Account, account_of, attempts_of
from nanochat.track.save_interval import Advice, advise
from nanochat.track.time_spent import time_spent

Event = dict[str, Any]


class Training:
    """A journal in the making: every call lets time pass and notes an event of it."""

    def __init__(self, now: float = 1000.0, stage: str = "base", training: str = "this") -> None:
        self.events: list[Event] = []
        self.now, self.stage, self.training, self.step = now, stage, training, 0

    def note(self, event: str, after: float = 0.0, **fields: Any) -> None:
        self.now += after
        about = {"stage": self.stage, "training": self.training, "step": self.step}
        self.events.append({"event": event, "time": self.now, **about, **fields})

    def start(self, at: int = 0, queued: float = 0.0, loading: float = 0.0, **fields: Any) -> None:
        self.now += queued
        began, self.step = self.now, at
        self.note("start", after=loading, process_started=began, **fields)

    def steps(self, count: int, seconds: float = 1.0, **fields: Any) -> None:
        for _ in range(count):
            self.step += 1
            self.note("step", after=seconds, seconds=seconds, loss=3.0, **fields)

    @property
    def account(self) -> Account:
        account = account_of(self.events, self.stage)
        assert account is not None
        return account

    def parts(self) -> dict[str, float]:
        """What is not zero."""
        return {part: pytest.approx(s) for part, s in self.account.seconds.items() if s > 1e-9}

    def advice(self, minutes: float | None = None) -> Advice:
        advice = advise(attempts_of(self.events, self.stage), self.account, minutes)
        assert advice is not None
        return advice


@pytest.fixture
def training() -> Training:
    return Training()


# --- the parts ----------------------------------------------------------------------------------


def test_an_undisturbed_training_is_start_up_and_useful_steps(training: Training) -> None:
    training.start(loading=7)
    training.steps(10)
    training.note("end", after=2)
    assert training.parts() == {"start": 7, "useful": 10, "other": 2}
    assert training.account.goodput == pytest.approx(10 / 19)
    assert (training.account.attempts, training.account.failures) == (1, 0)


def test_what_the_first_step_takes_longer_is_start_up(training: Training) -> None:
    training.start(loading=5)
    training.steps(1, seconds=31)
    training.steps(9)
    assert training.parts() == {"start": 35, "useful": 10}


def test_waiting_for_data_and_for_a_copy_is_not_useful(training: Training) -> None:
    training.start()
    training.steps(4, seconds=3, data_seconds=0.5, stall_seconds=0.25)
    assert training.parts() == {"useful": 9, "data": 2, "save": 1}


def test_evaluation_is_counted(training: Training) -> None:
    training.start()
    training.steps(2)
    training.note("validation", after=6, seconds=5.5, bpb=1.0)
    assert training.parts() == {"useful": 2, "evaluation": 5.5, "other": 0.5}


def test_a_stall_that_steps_have_told_is_counted_once(training: Training) -> None:
    training.start()
    training.steps(1)
    training.now += 0.5  # the copy is begun, between two steps
    training.steps(1, seconds=1.5, stall_seconds=0.25)
    training.steps(3)
    training.note("checkpoint", step=1, seconds=4, stall_seconds=0.75)
    assert training.parts() == {"useful": 5.25, "save": 0.75}


def test_a_save_that_failed_costs_its_stall(training: Training) -> None:
    training.start()
    training.steps(1)
    training.note("save_failed", after=3, step=1, seconds=3, stall_seconds=2, reason="full")
    assert training.parts() == {"useful": 1, "save": 2, "other": 1}


def test_a_killed_attempt_loses_the_steps_since_its_checkpoint(training: Training) -> None:
    training.start(loading=3)
    training.steps(10)
    training.start(at=6, queued=100, loading=4)
    training.steps(8)
    training.note("end")
    assert training.parts() == {"start": 7, "useful": 14, "lost": 4, "queue": 100}
    account = training.account
    assert (account.attempts, account.failures, account.steps, account.lost_steps) == (2, 1, 14, 4)
    assert account.running == pytest.approx(25)


def test_lost_steps_are_lost_before_they_are_made_again(training: Training) -> None:
    training.start()
    training.steps(10)
    training.start(at=6)
    training.steps(1)
    assert training.account.lost_steps == 4


def test_an_attempt_that_stopped_with_a_word_has_not_failed(training: Training) -> None:
    training.start()
    training.steps(5)
    training.note("stop", reason="deadline", requeued=True)
    training.start(at=5, queued=50)
    training.steps(5)
    assert (training.account.attempts, training.account.failures) == (2, 0)
    assert training.parts() == {"useful": 10, "queue": 50}


def test_the_last_attempt_fails_by_a_hang_and_not_by_silence(training: Training) -> None:
    training.start()
    training.steps(5)
    assert training.account.failures == 0
    training.note("hang", after=600, section="data", rank=3, host="gpu07", seconds=600)
    assert (training.account.failures, training.account.hangs) == (1, 1)
    assert training.parts() == {"useful": 5, "lost": 600}


def test_skipped_steps_and_what_a_rollback_undoes_are_lost(training: Training) -> None:
    training.start()
    training.steps(6)
    training.steps(2, skipped=True)
    training.step = 4
    training.note("rollback", after=3, from_step=8, reason="3 steps in a row were not finite")
    training.steps(2)
    assert training.parts() == {"useful": 6, "lost": 7}
    assert (training.account.steps, training.account.lost_steps) == (6, 4)


@pytest.mark.parametrize(("step", "from_step"), [(4, 8), (8, 4)])
def test_a_rollback_is_understood_whichever_step_it_names_first(
    training: Training, step: int, from_step: int
) -> None:
    training.start()
    training.steps(8)
    training.note("rollback", from_step=from_step, **{"step": step, "reason": "spike"})
    assert training.account.lost_steps == 4


def test_a_skipped_step_is_lost_and_no_other(training: Training) -> None:
    training.start()
    training.steps(2)
    training.steps(1, skipped=True)
    training.steps(2)
    assert training.parts() == {"useful": 4, "lost": 1}


def test_two_processes_at_once_are_not_counted_twice(training: Training) -> None:
    """The next attempt waits for the lease while the one before it still writes."""
    training.start()
    training.steps(10)
    training.step = 10
    training.note("start", after=5, process_started=training.now - 8)
    training.steps(10)
    assert training.parts() == {"useful": 20, "start": 5}


def test_only_the_last_training_of_the_stage_counts(training: Training) -> None:
    older, other = Training(training="older"), Training(stage="mid")
    for each in (older, other):
        each.start(loading=50)
        each.steps(3)
    training.start()
    training.steps(4)
    training.events = [*older.events, *other.events, *training.events]
    assert training.parts() == {"useful": 4}
    named = account_of(training.events, "base", "older")
    assert named is not None and named.steps == 3
    assert account_of(training.events, "sft") is None
    assert account_of(training.events, "base", "never heard of") is None


# --- journals as they may be --------------------------------------------------------------------


def test_a_journal_of_an_older_version_is_understood(training: Training) -> None:
    training.note("start", steps=100)
    for _ in range(5):
        training.step += 1
        tokens = {"tokens": training.step * 1000, "tokens_per_second": 500.0}
        training.note("step", after=2.5, **tokens)
    training.note("checkpoint", after=4, seconds=3.5, bytes=10)
    training.note("validation", after=6, bpb=1.0)
    parts = training.parts()
    assert parts == {"start": 0.5, "useful": 10, "save": 3.5, "other": 8.5}


def test_without_its_start_an_attempt_begins_with_its_first_event(training: Training) -> None:
    training.steps(3)
    assert training.account.began == 1001
    assert training.parts() == {"useful": 2}


def test_a_clock_set_back_takes_nothing_away(training: Training) -> None:
    training.start()
    training.steps(3)
    training.now -= 3600
    training.steps(3)
    assert training.account.wall == pytest.approx(3)


ODD = st.one_of(st.none(), st.booleans(), st.text(max_size=3), st.floats(), st.integers(-5, 10**6))
NAMES = st.sampled_from(
    ["start", "step", "step", "step", "checkpoint", "save_failed", "validation", "spike",
     "rollback", "diverged", "out_of_memory", "hang", "ranks", "stop", "end", "unheard-of"]
)  # fmt: skip
KEYS = st.sampled_from(
    ["step", "seconds", "data_seconds", "stall_seconds", "process_started", "tokens", "reason",
     "tokens_per_second", "skipped", "from_step", "loss", "median", "rows_before"]
)  # fmt: skip
ODD_EVENTS = st.fixed_dictionaries(
    {"event": NAMES, "stage": st.just("base"), "time": st.floats(0, 1e5)}
)
ODD_JOURNALS = st.lists(
    st.builds(lambda event, more: {**event, **more}, ODD_EVENTS, st.dictionaries(KEYS, ODD)),
    min_size=1,
    max_size=40,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(ODD_JOURNALS, st.sampled_from([None, 0.0, 15.0]))
def test_whatever_a_journal_says_its_seconds_add_up(
    journal: list[Event], minutes: float | None
) -> None:
    account = account_of(journal, "base")
    assert account is not None
    assert sum(account.seconds.values()) == pytest.approx(account.ended - account.began)
    assert tuple(account.seconds) == PARTS and min(account.seconds.values()) >= 0
    assert 0 <= account.goodput <= 1
    json.dumps(time_spent(journal, "base", minutes), allow_nan=False)


@pytest.mark.parametrize("seed", range(20))
def test_a_plausible_training_is_accounted_for_to_the_second(seed: int) -> None:
    """Here the truth is known: what the simulation did, part by part."""
    draw, training = random.Random(seed), Training()
    truth = dict.fromkeys(PARTS, 0.0)
    saved, made = 0, {}
    for attempt in range(draw.randint(1, 5)):
        queued, loading = draw.uniform(0, 100) * (attempt > 0), draw.uniform(1, 30)
        training.start(at=saved, queued=queued, loading=loading)
        truth["queue"] += queued
        truth["start"] += loading
        for step in [step for step in made if step > saved]:
            truth["lost"] += sum(made.pop(step).values())
        for _ in range(draw.randint(1, 30)):
            parts = {"useful": 1.0, "data": draw.random(), "save": draw.choice([0, 0, 0.3])}
            told = {"data_seconds": parts["data"], "stall_seconds": parts["save"]}
            training.steps(1, seconds=sum(parts.values()), **told)
            made[training.step] = parts
            if draw.random() < 0.2:
                told_since = _told_since_the_last_save(training.events)
                training.now += 0.5
                saved = training.step
                stall = {"seconds": 3.0, "stall_seconds": 0.5 + told_since}
                training.note("checkpoint", **stall)
                truth["save"] += 0.5
            if draw.random() < 0.2:
                training.note("validation", after=4, seconds=3.75)
                truth["evaluation"] += 3.75
                truth["other"] += 0.25
    for parts in made.values():
        for part, seconds in parts.items():
            truth[part] += seconds
    assert training.account.seconds == pytest.approx(truth)


def _told_since_the_last_save(events: list[Event]) -> float:
    told = 0.0
    for event in reversed(events):
        if event["event"] in ("start", "checkpoint"):
            break
        told += event.get("stall_seconds", 0.0)
    return told


# --- alerts -------------------------------------------------------------------------------------


def test_alerts_are_counted_and_the_last_of_each_kind_is_told(training: Training) -> None:
    training.start()
    training.steps(5)
    training.note("save_failed", reason="the first")
    training.note("save_failed", reason="the disk is full")
    training.note("spike", loss=9.5, median=3.25, score=12.0)
    training.note("rollback", from_step=9, reason="not finite")
    training.note("out_of_memory", rows_before=32, rows_now=16)
    training.note("hang", rank=3, host="gpu07", section="data", seconds=600.2)
    said = {alert.kind: (alert.count, alert.last) for alert in training.account.alerts}
    assert said == {
        "save_failed": (2, "the disk is full"),
        "spike": (1, "the loss of step 5 was 9.500, where 3.250 was usual"),
        "rollback": (1, "from step 9 back to 5: not finite"),
        "out_of_memory": (1, "32 rows at once did not fit: 16 from then on"),
        "hang": (1, "rank 3 on gpu07, in data of step 5 for 600 s"),
    }


# --- advice -------------------------------------------------------------------------------------


def failing(hours: float, failures: int, cost: float, steps: int = 100) -> Training:
    """Attempts of equal length, each but the last of which dies; one save in each."""
    training = Training()
    for _ in range(failures + 1):
        training.start(at=training.step)
        training.steps(steps, seconds=hours * 3600 / steps / (failures + 1) - cost / steps)
        training.note("checkpoint", after=cost, seconds=cost, stall_seconds=cost)
    return training


def test_the_advised_interval_is_youngs() -> None:
    advice = failing(hours=61, failures=10, cost=0.4, steps=1000).advice(15)
    assert advice.failure_every == pytest.approx(6.1 * 3600)
    assert advice.save_cost == pytest.approx(0.4)
    assert advice.best == pytest.approx(math.sqrt(2 * 0.4 * 6.1 * 3600), rel=1e-6)
    lost = 0.4 / 900 + 900 / (2 * 6.1 * 3600)
    assert advice.lost_now == pytest.approx(lost)


def test_the_advice_is_one_sentence() -> None:
    assert failing(hours=61, failures=10, cost=1.4, steps=1000).advice(15).sentence() == (
        "checkpoint interval: 15 min now; 4.1 min would lose least (a save costs 1.4 s, a failure "
        "every 6.1 h): 1.1 % of the time in place of 2.2 %"
    )


def test_without_a_failure_one_is_assumed_after_a_day_at_least() -> None:
    short = failing(hours=2, failures=0, cost=1.0).advice()
    assert (short.failures, short.failure_every) == (0, 24 * 3600)
    assert "no failure seen, one assumed every 24 h" in short.sentence()
    assert failing(hours=80, failures=0, cost=1.0).advice().failure_every == pytest.approx(288_000)


def test_no_interval_loses_less_than_the_advised_one() -> None:
    advice = failing(hours=30, failures=5, cost=20.0).advice()
    for factor in (0.5, 0.8, 1.25, 2.0):
        interval = factor * advice.best
        lost = advice.save_cost / interval + interval / (2 * advice.failure_every)
        assert lost > advice.lost_at_best


def test_an_interval_about_as_good_is_left_alone() -> None:
    advice = failing(hours=61, failures=10, cost=1.4, steps=1000).advice(4.5)
    assert "4.5 min now, as good as the best, 4.1 min" in advice.sentence()


def test_steps_that_a_save_makes_slower_are_its_cost(training: Training) -> None:
    training.start()
    for _ in range(5):
        training.steps(20)
        saved = training.step
        training.steps(4, seconds=1.5)
        training.note("checkpoint", step=saved, seconds=6.0, stall_seconds=0.25)
    assert training.advice().save_cost == pytest.approx(0.25 + 4 * 0.5)


def test_saves_are_never_advised_faster_than_they_are_written(training: Training) -> None:
    training.start()
    training.steps(20)
    training.note("checkpoint", seconds=700.0, stall_seconds=0.0)
    assert training.advice(0).best == 700
    assert training.advice(0).now == 700


def test_a_rollback_counts_as_a_failure_for_the_interval() -> None:
    training = failing(hours=48, failures=1, cost=1.0)
    training.note("rollback", from_step=training.step, reason="spike")
    assert training.advice().failure_every == pytest.approx(24 * 3600)


def test_nothing_is_advised_before_the_first_checkpoint(training: Training) -> None:
    training.start()
    training.steps(20)
    spent = time_spent(training.events, "base", 15)
    assert spent is not None and spent["advice"] is None
    assert time_spent([], "base", 15) is None
