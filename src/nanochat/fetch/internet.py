"""Where downloads may run: a cluster's compute nodes have no internet, and often some logins.

    require_internet(missing, platform.node(), site.internet_hosts, "snakemake ...", log)

Asked before anything is submitted. Writes the list of missing files to `log` where it refuses.
"""

import shlex
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from nanochat.errors import BadInput
from nanochat.files import write_text

NAMED = 4  # missing files up to this number are all named in the sentence


def has_internet(host: str, patterns: Sequence[str]) -> bool:
    """Whether `host`, by its full or short name, is one of the site's hosts with internet.

    No patterns: every host is.
    """
    names = {host.lower(), host.lower().partition(".")[0]}
    return not patterns or any(
        fnmatchcase(name, pattern.lower()) for name in names for pattern in patterns
    )


def require_internet(
    missing: Sequence[Path], host: str, patterns: Sequence[str], command: str, log: Path
) -> None:
    """Raises BadInput where files are to be downloaded and this host is not one to do it on.

    `command` is what downloads them, for the error's advice.
    """
    if not missing or has_internet(host, patterns):
        return
    names = [path.name for path in missing]
    write_text(log, "".join(f"{path}\n" for path in missing))
    listed = ", ".join(names) if len(names) <= NAMED else f"{names[0]} ... {names[-1]}"
    files = "1 file has" if len(names) == 1 else f"{len(names)} files have"
    raise BadInput(
        f"{files} to be downloaded first ({listed}; listed in {log}), and this host, {host}, has "
        f"no internet: run `{command}` on a host that has ({', '.join(patterns)})"
    )


def download_command(arguments: Sequence[str]) -> str:
    """The command that only downloads, for what Snakemake was called with (`sys.argv`)."""
    until = [] if "--until" in arguments else ["--until", "downloads"]
    return shlex.join(["snakemake", *arguments[1:], *until])
