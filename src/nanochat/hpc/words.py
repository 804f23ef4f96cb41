"""SLURM's reasons and states in the words of a person who waits for a job.

print(reason_in_words("JobHeldUser", "1234"))
"""

REASONS = {
    "AssocGrpGRES": "your account's GPUs are all in use",
    "BeginTime": "held back until its start time, as after every requeue",
    "Dependency": "waits for another job",
    "DependencyNeverSatisfied": "waits for a job that failed: cancel it with scancel {job}",
    "JobArrayTaskLimit": "as many jobs of its array run as may",
    "JobHeldAdmin": "held by the administrators: ask them",
    "JobHeldUser": "held: release it with scontrol release {job}",
    "Licenses": "waits for a licence",
    "None": "was just submitted",
    "NodeDown": "a node that it needs is down",
    "PartitionDown": "the partition is closed: see sinfo",
    "PartitionInactive": "the partition is closed: see sinfo",
    "PartitionNodeLimit": "asks for more nodes than the partition allows: scancel {job}",
    "PartitionTimeLimit": "asks for more time than the partition allows: scancel {job}",
    "Priority": "others are ahead in the queue",
    "ReqNodeNotAvail": "its nodes are down or reserved, for maintenance perhaps: see sinfo",
    "Reservation": "waits for a reservation",
    "Resources": "first in the queue, waits for free nodes",
}
LIMITS = {
    "Assoc": "your account's limit is reached",
    "QOS": "the limit of its quality of service is reached",
    "MaxJobs": "you run as many jobs as you may",
}
"""Beginnings of the many reasons that are a limit."""
ENDINGS = {
    "BOOT_FAIL": "its node did not boot",
    "CANCELLED": "it was cancelled",
    "DEADLINE": "its deadline passed",
    "FAILED": "it failed",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "it needed more memory than it had",
    "PREEMPTED": "it made room for a job of higher priority",
    "TIMEOUT": "its time was up",
}


def reason_in_words(reason: str, job_id: str) -> str:
    """Why a job waits. SLURM's own word follows where ours may say too little."""
    name = reason.strip("()").split(",")[0].split(" ")[0] or "None"
    known = REASONS.get(name)
    if known is not None:
        return known.format(job=job_id)
    for beginning, words in LIMITS.items():
        if name.startswith(beginning):
            return f"{words} ({reason})"
    return reason


def ending_in_words(state: str) -> str:
    """How a job ended; the state itself where it is a new one."""
    return ENDINGS.get(state, f"it ended as {state}")
