from pathlib import Path

import pytest

from nanochat.errors import BadInput
from nanochat.fetch.internet import download_command, has_internet, require_internet


def test_a_host_is_known_by_its_full_or_its_short_name() -> None:
    assert has_internet("Login3.cluster.edu", ["login*"])
    assert has_internet("login3.cluster.edu", ["*.cluster.edu"])
    assert has_internet("login3.cluster.edu", ["LOGIN3"])
    assert not has_internet("gpu012.cluster.edu", ["login*", "data?"])


def test_without_patterns_every_host_has_internet(tmp_path: Path) -> None:
    require_internet([tmp_path / "a"], "gpu012", (), "x", tmp_path / "log")


def test_with_every_file_there_any_host_will_do(tmp_path: Path) -> None:
    require_internet([], "gpu012", ("login*",), "x", tmp_path / "log")


@pytest.mark.parametrize(
    ("count", "listed"),
    [
        (1, "1 file has to be downloaded first (s0"),
        (3, "3 files have to be downloaded first (s0, s1, s2;"),
        (155, "155 files have to be downloaded first (s0 ... s154;"),
    ],
)
def test_the_sentence_names_files_host_and_command(tmp_path: Path, count: int, listed: str) -> None:
    files = [tmp_path / f"s{number}" for number in range(count)]
    log = tmp_path / "missing.log"
    with pytest.raises(BadInput) as caught:
        require_internet(files, "gpu012", ("login*", "data?"), "snakemake --until downloads", log)
    sentence = str(caught.value)
    assert sentence.startswith(listed)
    for part in ("gpu012", "`snakemake --until downloads`", "login*, data?", str(log)):
        assert part in sentence
    assert log.read_text().splitlines() == [str(path) for path in files]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--profile profiles/x --config run=d20", " --until downloads"),
        ("--profile profiles/x --until downloads", ""),
    ],
)
def test_the_command_is_the_one_given_up_to_the_downloads(given: str, said: str) -> None:
    arguments = ["/venv/bin/snakemake", *given.split()]
    assert download_command(arguments) == f"snakemake {given}{said}"
