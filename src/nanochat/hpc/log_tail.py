"""The error with which a log ends, if it ends with one. Reads its last few kilobytes only.

print(last_error(disk.logs / "base_train.log"))
"""

import os
import re
from pathlib import Path

TAIL_BYTES = 8192
OURS = "error: "
BYSTANDER = re.compile(r"rank \d+ of \d+ lost the others")
"""What a rank says that another one left alone."""
TRACEBACK_END = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit)\b")


def last_error(log: Path) -> str:
    """The sentence after the last `error: `, or the last line of a traceback; empty where the log
    ends with neither."""
    with open(log, "rb") as handle:
        size = os.fstat(handle.fileno()).st_size
        handle.seek(max(0, size - TAIL_BYTES))
        lines = handle.read().decode(errors="replace").splitlines()
    ours = [line.removeprefix(OURS) for line in lines if line.startswith(OURS)]
    causes = [sentence for sentence in ours if not BYSTANDER.match(sentence)]
    if ours:
        return (causes or ours)[-1]
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last if TRACEBACK_END.match(last) else ""
