"""Two processes never train into one folder, and no lease keeps the next one out for ever."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nanochat.errors import DiskError
from nanochat.hpc.processes import Process
from nanochat.train import lease
from nanochat.train.lease import HeldLease, holder, may_be_running, one_writer
from nanochat.train.lease_file import Lease, claim, newest

CROWD = Path(__file__).parent / "lease_crowd.py"
HOLD = (
    "import sys, time; from pathlib import Path; from nanochat.train import lease\n"
    "lease.HEARTBEAT_SECONDS = 0.02\n"
    "with lease.one_writer(Path(sys.argv[1]), sys.argv[2] or None) as held:\n"
    "    print('held', flush=True)\n"
    "    for line in sys.stdin:\n"
    "        print(held.is_mine(), flush=True)\n"
)
ELSEWHERE = Process("another boot", "pid:[1]", 4, "1")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(lease, "STALE_SECONDS", 0.2)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(lease, "SECONDS_BETWEEN_QUERIES", 0.02)


class Holder:
    """A process that holds the folder's lease, once this is made."""

    def __init__(self, folder: Path, job: str = "") -> None:
        command = [sys.executable, "-c", HOLD, str(folder), job]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout and self.process.stdout.readline() == "held\n"

    def says_it_is_its(self) -> bool:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline() == "True\n"

    def end(self) -> None:
        self.process.communicate(timeout=30)
        assert self.process.returncode == 0


def left_behind(folder: Path, number: int = 7, **fields: object) -> Path:
    """A lease that a process elsewhere holds, with nobody who renews it."""
    there = replace(Lease.own(folder, None, None), process=ELSEWHERE, host="gpu02")
    path = folder / f"lease-{number:06d}.json"
    path.write_bytes(replace(there, **fields).content())  # type: ignore[arg-type]
    return path


def renew(path: Path) -> None:
    """A heartbeat of the holder elsewhere."""
    there = Lease.parse(path.read_bytes())
    assert there is not None
    path.write_bytes(replace(there, heartbeat=there.heartbeat + 1).content())


def numbers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def never_asked(job_id: str) -> bool:
    raise AssertionError(f"SLURM was asked about {job_id}")


# --- who gets in --------------------------------------------------------------------------------


def test_of_a_crowd_that_is_killed_at_random_one_is_inside_at_a_time(tmp_path: Path) -> None:
    command = [sys.executable, str(CROWD), str(tmp_path), "8", "25", "30", "1"]
    subprocess.run(command, check=True)
    inside, over = "", set()
    entered: Counter[str] = Counter()
    for line in (tmp_path / "log").read_text().splitlines():
        word, pid = line.split()
        assert word != "lost" and pid not in over, line
        if word == "enter":
            entered[pid] += 1
            if inside:  # it has no `leave`: so it was killed, and is never heard of again
                over.add(inside)
        else:
            assert inside == pid, line
        inside = "" if word == "leave" else pid
    assert sum(entered.values()) == 200
    assert len(over) > 5, "holders were killed"
    assert len(numbers(tmp_path / "checkpoints")) == 1


def test_the_second_writer_waits_and_says_for_whom(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Holder(tmp_path, job="16")
    answers = [True, True, True]

    def ends_meanwhile(job_id: str) -> bool:
        assert job_id == "16"
        answers.pop()
        if not answers:
            first.end()
        return True

    with one_writer(tmp_path, job_is_running=ends_meanwhile):
        assert answers == []
    said = capsys.readouterr().err
    assert f"process {first.process.pid} on {os.uname().nodename} in SLURM job 16 since" in said
    assert said.count("is training into") == 1


def test_a_released_lease_is_taken_at_once(tmp_path: Path) -> None:
    left_behind(tmp_path, released=True, job_id="16")
    with one_writer(tmp_path, job_is_running=never_asked) as held:
        assert held.number == 8
    with one_writer(tmp_path, job_is_running=never_asked) as held:
        assert held.number == 9
    assert numbers(tmp_path) == ["lease-000009.json"]


def test_a_killed_writer_of_this_machine_is_not_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STALE_SECONDS", 600.0)
    first = Holder(tmp_path, job="16")
    first.process.kill()
    first.process.communicate()
    with one_writer(tmp_path, "17", 0, never_asked):
        pass
    assert capsys.readouterr().err == ""


def test_a_killed_writer_that_its_parent_has_not_noticed_is_gone(tmp_path: Path) -> None:
    first = Holder(tmp_path)
    first.process.kill()
    os.waitid(os.P_PID, first.process.pid, os.WEXITED | os.WNOWAIT)
    with one_writer(tmp_path):
        pass
    first.process.communicate()


def test_another_process_with_the_number_of_the_holder_is_not_the_holder(tmp_path: Path) -> None:
    own = Process.own()
    left_behind(tmp_path, process=own._replace(started="1"))
    with one_writer(tmp_path) as held:
        assert held.number == 8


def test_a_process_of_this_machine_that_is_stopped_is_waited_for_while_it_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, looks, sleep = Holder(tmp_path), 0, time.sleep
    os.kill(first.process.pid, signal.SIGSTOP)

    def sleep_and_end(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 100:  # five times as many as make a heartbeat stale
            first.process.kill()
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", sleep_and_end)
    with one_writer(tmp_path):
        assert looks >= 100
    first.process.communicate()


# --- a holder whose life nobody knows -----------------------------------------------------------


def test_a_lease_of_another_machine_is_taken_once_its_heartbeat_stands_still(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = left_behind(tmp_path)
    looks, sleep = 0, time.sleep

    def sleep_and_renew(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks < 100:  # five times as long as would be needed
            renew(path)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", sleep_and_renew)
    with one_writer(tmp_path) as held:
        assert held.number == 8
        assert looks >= 100
    assert "process 4 on gpu02 since" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b'{"host": "gpu', b"[]", b'{"host": "gpu02"}', b"\xff"])
def test_a_torn_lease_counts_as_held_until_it_stands_still(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lease-000007.json").write_bytes(content)
    with one_writer(tmp_path) as held:
        assert held.number == 8
    assert "another process is training into" in capsys.readouterr().err


def test_the_lease_in_a_copied_folder_is_no_reason_to_wait_for_long(tmp_path: Path) -> None:
    original, copy = tmp_path / "a", tmp_path / "b"
    first = Holder(original, job="16")
    shutil.copytree(original, copy)
    with one_writer(copy, job_is_running=never_asked) as held:
        assert held.is_mine()
    assert first.says_it_is_its()
    first.end()


def test_a_pause_of_the_waiting_process_is_no_proof_against_the_holder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine of both was suspended, say, or a clock jumped."""
    left_behind(tmp_path)
    ticks = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: ticks[0])
    wait = lease._Wait(tmp_path, Lease.own(tmp_path, None, None), never_asked)
    looks = 0
    while not wait.is_over(newest(tmp_path)):
        ticks[0] += 3600.0
        looks += 1
    assert looks >= lease.STALE_SECONDS / (2 * lease.POLL_SECONDS)


# --- what SLURM knows ---------------------------------------------------------------------------


def test_a_running_job_is_waited_for_however_old_its_heartbeat_is(tmp_path: Path) -> None:
    left_behind(tmp_path, job_id="16")
    answers = [True] * 40

    def is_running(job_id: str) -> bool:
        assert job_id == "16"
        return bool(answers) and answers.pop()

    with one_writer(tmp_path, "17", 0, is_running) as held:
        assert answers == [] and held.number == 8


def test_slurm_is_not_asked_at_every_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(tmp_path, job_id="16")
    ticks, asked = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: ticks[0])
    monkeypatch.setattr(lease, "SECONDS_BETWEEN_QUERIES", 10.0)
    wait = lease._Wait(tmp_path, Lease.own(tmp_path, "17", 0), lambda job: not asked.append(job))
    for second in range(25):
        ticks[0] = float(second)
        assert not wait.is_over(newest(tmp_path))
    assert asked == ["16"] * 3
    left_behind(tmp_path, number=8, job_id="18")
    wait.is_over(newest(tmp_path))
    assert asked[3:] == ["18"], "another holder: what is known is of no use"


def test_where_there_is_no_slurm_to_ask_the_heartbeat_decides(tmp_path: Path) -> None:
    left_behind(tmp_path, job_id="16")
    with one_writer(tmp_path, job_is_running=lambda job_id: None) as held:
        assert held.number == 8


def test_an_earlier_attempt_of_the_own_job_is_not_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left_behind(tmp_path, job_id="17", restarts=1)
    with one_writer(tmp_path, "17", 2, never_asked):
        pass
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("restarts", [None, 2, 3])
def test_another_process_of_the_own_job_is_waited_for_while_its_heart_beats(
    tmp_path: Path, restarts: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    left_behind(tmp_path, job_id="17", restarts=restarts)
    with one_writer(tmp_path, "17", 2, never_asked) as held:
        assert held.number == 8
    assert "in SLURM job 17" in capsys.readouterr().err


def test_slurm_that_gives_no_answer_is_taken_for_a_running_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert may_be_running("16") is None  # no SLURM here
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\nexit 1\n")
    squeue.chmod(0o755)
    assert may_be_running("16") is True


# --- the holder ---------------------------------------------------------------------------------


def test_a_holder_that_slept_through_a_takeover_sees_it_when_it_wakes(tmp_path: Path) -> None:
    first = Holder(tmp_path, job="16")
    assert first.says_it_is_its()
    os.kill(first.process.pid, signal.SIGSTOP)
    with one_writer(tmp_path, "17", 0, lambda job_id: False) as held:
        os.kill(first.process.pid, signal.SIGCONT)
        assert not first.says_it_is_its()
        first.end()
        assert held.is_mine()
        assert numbers(tmp_path) == ["lease-000002.json"]


def test_a_takeover_is_known_without_a_look_after_a_heartbeat(tmp_path: Path) -> None:
    with one_writer(tmp_path) as held:
        left_behind(tmp_path, number=9)
        held._thread.join(30)
        assert held.lost and not held.is_mine()
        shutil.copy(tmp_path / "lease-000009.json", tmp_path / "kept")
    assert (tmp_path / "lease-000009.json").read_bytes() == (tmp_path / "kept").read_bytes()


def test_a_lost_lease_stays_lost(tmp_path: Path) -> None:
    with one_writer(tmp_path) as held:
        path = left_behind(tmp_path, number=9)
        assert not held.is_mine()
        path.unlink()
        assert not held.is_mine()


@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_lease_that_somebody_deleted_is_lost_and_never_made_again(
    tmp_path: Path, whole_folder: bool
) -> None:
    folder = tmp_path / "checkpoints"
    with one_writer(folder) as held:
        (folder / "lease-000001.json").unlink()
        if whole_folder:
            shutil.rmtree(folder)
        assert not held.is_mine()
    assert not (folder / "lease-000001.json").exists()


def test_a_heartbeat_after_the_sweep_of_a_successor_brings_nothing_back(tmp_path: Path) -> None:
    """It had looked just before."""
    held = HeldLease(tmp_path, 7, Lease.own(tmp_path, None, None))
    left_behind(tmp_path, number=8)
    with pytest.raises(FileNotFoundError):
        held._beat(released=False)
    assert numbers(tmp_path) == ["lease-000008.json"]


def test_a_release_that_the_disk_holds_up_is_made_when_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, answers, fsync = threading.Event(), threading.Event(), os.fsync

    def hang(descriptor: int) -> None:
        reached.set()
        answers.wait()
        fsync(descriptor)

    with one_writer(tmp_path) as held:
        monkeypatch.setattr(os, "fsync", hang)
        reached.wait()
    assert holder(tmp_path) is not None
    answers.set()
    held._thread.join()
    assert holder(tmp_path) is None


def fill(disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"), open(disk / "filler", "wb") as handle:
        while True:
            handle.write(bytes(4096))


def test_a_full_disk_stops_neither_the_heartbeat_nor_the_release(small_disk: Path) -> None:
    with one_writer(small_disk) as held:
        fill(small_disk)
        before = held.lease.heartbeat
        until(lambda: Lease.parse(newest(small_disk).content).heartbeat > before + 1)  # type: ignore[union-attr]
        assert held.is_mine()
    left = Lease.parse(newest(small_disk).content)
    assert left is not None and left.released


@pytest.mark.parametrize("links", [True, False])
def test_a_full_disk_lets_nobody_in_and_keeps_no_torn_lease(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    left_behind(small_disk, released=True)
    if not links:
        refuse_links(monkeypatch, errno.EPERM)
    filler = small_disk / "filler"
    fill(small_disk)
    os.truncate(filler, filler.stat().st_size - (0 if links else 4096))  # room for one of the two
    with pytest.raises(DiskError, match="the disk is full"), one_writer(small_disk):
        pass
    assert numbers(small_disk) == ["filler", "lease-000007.json"]


def test_a_heartbeat_that_fails_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError(errno.EIO, "Input/output error"), OSError(errno.ESTALE, "Stale handle")]
    utime = os.utime

    def away_for_a_while(folder: Path) -> None:
        if failures:
            raise failures.pop()
        utime(folder)

    with one_writer(tmp_path) as held:
        monkeypatch.setattr(os, "utime", away_for_a_while)
        until(lambda: not failures)
        before = held.lease.heartbeat
        until(lambda: held.lease.heartbeat > before)
        assert held.is_mine()


def test_a_holder_that_cannot_look_says_so_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with one_writer(tmp_path) as held:
        monkeypatch.setattr(os, "utime", refuse)
        with pytest.raises(DiskError, match=r"cannot see whether .*Stale file handle"):
            held.is_mine()


def test_a_read_only_disk_gets_one_sentence(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DiskError, match="the file system is read-only"), one_writer(small_disk):
        pass


# --- the file -----------------------------------------------------------------------------------


def refuse_links(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_hard_links_one_still_gets_in_and_no_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refuse_links(monkeypatch, number)
    own, other = (Lease.own(tmp_path, None, None) for _ in range(2))
    assert claim(tmp_path, 1, own)
    assert not claim(tmp_path, 1, other)
    assert Lease.parse(newest(tmp_path).content) == own
    assert numbers(tmp_path) == ["lease-000001.json"]


def test_a_link_whose_answer_got_lost_is_known_by_what_the_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS sends the call again, and that one is refused."""
    link = os.link

    def link_twice(temporary: Path, path: Path) -> None:
        link(temporary, path)
        link(temporary, path)

    monkeypatch.setattr(os, "link", link_twice)
    assert claim(tmp_path, 1, Lease.own(tmp_path, None, None))


def test_a_claim_of_a_number_that_was_swept_meanwhile_fails(tmp_path: Path) -> None:
    left_behind(tmp_path, number=7)
    assert not claim(tmp_path, 6, Lease.own(tmp_path, None, None))
    assert newest(tmp_path).number == 7
    with one_writer(tmp_path):
        assert numbers(tmp_path) == ["lease-000008.json"]


def test_leftovers_of_killed_contenders_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".tmp-lease-000003.json-0123456789ab").touch()
    with one_writer(tmp_path):
        assert numbers(tmp_path) == ["lease-000001.json"]


def test_the_file_tells_people_who_holds_it(tmp_path: Path) -> None:
    with one_writer(tmp_path, "17", 2):
        said = json.loads((tmp_path / "lease-000001.json").read_bytes())
    assert (said["job_id"], said["restarts"], said["host"]) == ("17", 2, os.uname().nodename)


def test_all_heartbeats_are_of_one_length(tmp_path: Path) -> None:
    """Else something of the one before would stay behind what is written over it."""
    first = Lease.own(tmp_path, None, None)
    last = replace(first, heartbeat=10**9, released=True)
    assert len(last.content()) == len(first.content())


# --- for other commands -------------------------------------------------------------------------


def test_a_folder_tells_who_trains_into_it(tmp_path: Path) -> None:
    assert holder(tmp_path / "not made yet") is None
    assert holder(tmp_path) is None
    with one_writer(tmp_path, "17"):
        said = holder(tmp_path)
    assert said is not None and said.startswith(f"process {os.getpid()} on ")
    assert " in SLURM job 17 since 20" in said
    assert holder(tmp_path) is None
    assert numbers(tmp_path) == ["lease-000001.json"]


def test_a_killed_holder_trains_no_more(tmp_path: Path) -> None:
    first = Holder(tmp_path)
    assert holder(tmp_path) is not None
    first.process.kill()
    first.process.communicate()
    assert holder(tmp_path) is None


@pytest.mark.parametrize("torn", [False, True])
def test_a_holder_elsewhere_trains_while_its_file_is_young(tmp_path: Path, torn: bool) -> None:
    path = left_behind(tmp_path)
    if torn:
        path.write_text("{")
    os.utime(path, (time.time(), time.time() + 60))
    assert holder(tmp_path) is not None
    os.utime(path, (0, time.time() - 60))
    assert holder(tmp_path) is None


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
