"""What training says to people; the journal has it for machines.

    say("base step 00120/00400 ...")

Writes to standard output, or to standard error.
"""

import sys
from typing import TextIO

from nanochat.files import DISK_TROUBLE


def say(sentence: str, file: TextIO | None = None) -> None:
    """Prints a line at once. Where the log's disk is full it is lost: that ends no training."""
    try:
        print(sentence, file=file or sys.stdout, flush=True)
    except OSError as exc:
        if exc.errno not in DISK_TROUBLE:
            raise
