"""What SLURM's squeue and sacct print, as values: text in, dataclasses out.

    jobs = parse_squeue(printed)
    attempts = parse_sacct(printed)

Which rule a job runs stands in its comment, as Snakemake's SLURM executor writes it. Tried on
SLURM 22.05; tests/hpc/recorded/ holds what that one printed.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

FAILED_STATES = frozenset(
    {"BOOT_FAIL", "CANCELLED", "DEADLINE", "FAILED"}
    | {"NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}
)
TERMINAL_STATES = FAILED_STATES | {"COMPLETED"}
"""A state that is not here, known or not, is taken for one that goes on."""
WAITING_STATES = frozenset(["PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD"])
"""No node is held in these."""

# Field, and the width that squeue cuts it off at; a path has to come last, since it may hold a `|`.
SQUEUE_FIELDS = {
    "JobID": 20, "Name": 80, "Comment": 80, "State": 20, "Reason": 60, "NodeList": 40,
    "SubmitTime": 30, "StartTime": 30, "EndTime": 30, "TimeLimit": 20, "RestartCnt": 8,
    "exit_code": 8, "Partition": 30, "tres-alloc": 90, "WorkDir": 255,
}  # fmt: skip
SQUEUE_FORMAT = ",".join(f"{field}:{width}|" for field, width in SQUEUE_FIELDS.items())
SACCT_FIELDS = {
    "JobIDRaw": "JobID", "JobName": "Name", "Comment": "Comment", "State": "State",
    "Reason": "Reason", "NodeList": "NodeList", "Submit": "SubmitTime", "Start": "StartTime",
    "End": "EndTime", "Timelimit": "TimeLimit", "ExitCode": "exit_code", "Partition": "Partition",
    "AllocTRES": "tres-alloc", "WorkDir": "WorkDir", "SubmitLine": "SubmitLine",
}  # fmt: skip
"""What sacct calls a field, and what squeue calls it."""

COMMENT = re.compile(r"rule_(?P<rule>\w+?)(?:_wildcards_(?P<wildcards>\S*))?$")
SUBMITTED_COMMENT = re.compile(r"--comment[= ]['\"]?([^\s'\"]+)")
LIMIT = re.compile(r"(?:(?P<days>\d+)-)?(?:(?P<hours>\d+):)?(?P<minutes>\d+):(?P<seconds>\d+)")
TYPED_GPUS = re.compile(r"gres/gpu:[^=,]+=(\d+)")
ALL_GPUS = re.compile(r"gres/gpu=(\d+)")
NOTHING = {"", "(null)", "N/A", "None", "NONE", "None assigned", "Unknown"}


@dataclass(frozen=True)
class SlurmJob:
    """One job, or one attempt of it where `past_jobs` tells them apart. Times know their zone."""

    id: str
    name: str
    comment: str
    rule: str
    """Snakemake's rule; empty where the comment names none."""
    wildcards: str
    """The values of its wildcards, joined by `_`."""
    state: str
    """Without flags, e.g. CANCELLED for `CANCELLED by 1000`."""
    reason: str
    """Why it waits or failed, in SLURM's word; empty where it gives none."""
    nodes: str
    submit: datetime | None
    start: datetime | None
    """Of a waiting job: when SLURM expects to start it."""
    end: datetime | None
    """Of a running job: when its time is up."""
    time_limit: timedelta | None
    restarts: int
    exit_code: str
    """`code:signal`."""
    partition: str
    gpus: int
    work_dir: Path

    @property
    def is_live(self) -> bool:
        """True where it waits, runs, or is in a state never heard of."""
        return self.state not in TERMINAL_STATES

    @property
    def is_waiting(self) -> bool:
        """True where it holds no node yet."""
        return self.state in WAITING_STATES


def parse_squeue(text: str) -> list[SlurmJob]:
    """The jobs that `squeue --noheader --Format SQUEUE_FORMAT` printed."""
    rows = [line.split("|", len(SQUEUE_FIELDS) - 1) for line in text.splitlines()]
    return [
        _job(dict(zip(SQUEUE_FIELDS, map(str.strip, row), strict=True)))
        for row in rows
        if len(row) == len(SQUEUE_FIELDS)
    ]


def parse_sacct(text: str) -> list[SlurmJob]:
    """The attempts that `sacct -P` printed, oldest first; `restarts` counts those before each.

    A submit line with line breaks in it goes on over lines that hold no job: these are passed over.
    """
    rows = [line.split("|", len(SACCT_FIELDS) - 1) for line in text.splitlines()]
    attempts: dict[str, int] = {}
    jobs = []
    for row in rows:
        if len(row) != len(SACCT_FIELDS) or not row[0].isdigit():
            continue
        fields = dict(zip(SACCT_FIELDS.values(), row, strict=True))
        before = attempts.get(row[0], 0)
        attempts[row[0]] = before + 1
        jobs.append(_job({**fields, "RestartCnt": str(before)}))
    return jobs


def parse_state(text: str) -> str:
    """`CANCELLED by 1000` as CANCELLED, `RUNNING+` as RUNNING; a word never heard of as it is."""
    words = text.split()
    return words[0].rstrip("+").upper() if words else ""


def parse_time(text: str) -> datetime | None:
    """A time with its zone; one without is this machine's. None for N/A, Unknown and the like."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        return None


def parse_time_limit(text: str) -> timedelta | None:
    """`2-03:00:00`, `12:00:00` or `1:00` (a minute); None for UNLIMITED and the like."""
    match = LIMIT.fullmatch(text)
    if match is None:
        return None
    return timedelta(**{unit: int(number or 0) for unit, number in match.groupdict().items()})


def parse_comment(text: str) -> tuple[str, str]:
    """Rule and wildcards of `rule_chat_eval_wildcards_mid`; two empty strings for another text."""
    match = COMMENT.match(text)
    return (match["rule"], match["wildcards"] or "") if match else ("", "")


def _job(fields: dict[str, str]) -> SlurmJob:
    # Accounts keep no comment at many sites, and none of a running job: the submit line has it too.
    submitted = SUBMITTED_COMMENT.search(fields.get("SubmitLine", ""))
    comment = _or_nothing(fields["Comment"]) or (submitted[1] if submitted else "")
    rule, wildcards = parse_comment(comment)
    return SlurmJob(
        id=fields["JobID"],
        name=fields["Name"],
        comment=comment,
        rule=rule,
        wildcards=wildcards,
        state=parse_state(fields["State"]),
        reason=_or_nothing(fields["Reason"]),
        nodes=_or_nothing(fields["NodeList"]),
        submit=parse_time(fields["SubmitTime"]),
        start=parse_time(fields["StartTime"]),
        end=parse_time(fields["EndTime"]),
        time_limit=parse_time_limit(fields["TimeLimit"]),
        restarts=int(fields["RestartCnt"]) if fields["RestartCnt"].isdigit() else 0,
        exit_code=_code_and_signal(fields["exit_code"]),
        partition=fields["Partition"],
        gpus=_gpus(fields["tres-alloc"]),
        work_dir=Path(fields["WorkDir"].removesuffix("|").strip()),
    )


def _or_nothing(text: str) -> str:
    return "" if text in NOTHING else text


def _code_and_signal(text: str) -> str:
    """squeue prints a wait status (512), sacct `2:0`; both become the latter."""
    return f"{int(text) >> 8}:{int(text) & 0x7F}" if text.isdigit() else text


def _gpus(tres: str) -> int:
    """GPUs of `cpu=1,gres/gpu:a100=8,gres/gpu=8`: the total, else the sum of the models."""
    total = ALL_GPUS.search(tres)
    return int(total[1]) if total else sum(map(int, TYPED_GPUS.findall(tres)))
