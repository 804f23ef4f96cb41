import pytest

from nanochat.hpc.slurm_text import FAILED_STATES
from nanochat.hpc.words import ENDINGS, ending_in_words, reason_in_words


@pytest.mark.parametrize(
    ("reason", "words"),
    [("Priority", "others are ahead in the queue"),
     ("(Resources)", "first in the queue, waits for free nodes"),
     ("JobHeldUser", "held: release it with scontrol release 7"),
     ("ReqNodeNotAvail, UnavailableNodes:gpu[01-02]",
      "its nodes are down or reserved, for maintenance perhaps: see sinfo"),
     ("QOSMaxJobsPerUserLimit",
      "the limit of its quality of service is reached (QOSMaxJobsPerUserLimit)"),
     ("AssocGrpCPUMinutesLimit", "your account's limit is reached (AssocGrpCPUMinutesLimit)"),
     ("", "was just submitted"),
     ("Reason_of_2031", "Reason_of_2031")],
)  # fmt: skip
def test_a_reason_is_said_in_words(reason: str, words: str) -> None:
    assert reason_in_words(reason, "7") == words


def test_every_way_to_fail_has_words() -> None:
    assert set(ENDINGS) == FAILED_STATES
    assert ending_in_words("MELTED") == "it ended as MELTED"
