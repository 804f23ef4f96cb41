"""Files appear whole or not at all, and a disk's trouble gets one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.errors import DamagedArtefact, DiskError, MissingArtefact
from nanochat.files import (
    atomic_directory,
    atomic_path,
    atomic_write,
    make_directory,
    read_json,
    require_writable,
    write_json,
    write_text,
)


def test_a_failed_write_leaves_the_old_content_and_no_leftover(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_text(file, "old")
    with pytest.raises(ZeroDivisionError), atomic_write(file) as handle:
        handle.write(b"new, but")
        raise ZeroDivisionError
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_failed_writer_by_name_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_process_killed_while_writing_leaves_the_old_content(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_text(file, "old")
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from nanochat.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as handle:\n"
        "    handle.write(b'new'); handle.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.run([sys.executable, "-c", script, str(file)], timeout=60)
    assert process.returncode == -9
    assert file.read_text() == "old"


def test_a_directory_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for content in ("first", "second"):
        with atomic_directory(folder) as temporary:
            (temporary / "file").write_text(content)
            assert not folder.exists() or (folder / "file").read_text() == "first"
    assert (folder / "file").read_text() == "second"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_full_disk_gets_one_sentence_and_keeps_the_old_content(small_disk: Path) -> None:
    file = small_disk / "file"
    write_text(file, "old")
    with pytest.raises(DiskError, match="the disk is full"), atomic_write(file) as handle:
        handle.write(bytes(8 << 20))
    assert file.read_text() == "old"
    assert list(small_disk.iterdir()) == [file]


def test_a_path_below_a_file_gets_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="a part of the path is a file"):
        make_directory(tmp_path / "file" / "below")


def test_a_read_only_disk_gets_one_sentence(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DiskError, match="the file system is read-only"):
        write_text(small_disk / "file", "x")
    with pytest.raises(DiskError, match="the file system is read-only"):
        require_writable(small_disk / "not" / "yet" / "there")


def test_a_folder_of_somebody_else_gets_one_sentence(tmp_path: Path) -> None:
    """As another user, since root may write anywhere; skips where nobody can become one."""
    if os.getuid() != 0:
        pytest.skip("needs the right to become another user")
    script = (
        "import os, sys; from pathlib import Path; from nanochat import files, errors\n"
        "os.setuid(65534)\n"
        "for refused in (files.require_writable, lambda path: files.write_text(path, 'x')):\n"
        "    try:\n"
        "        refused(Path(sys.argv[1]) / 'file')\n"
        "    except errors.DiskError as error:\n"
        "        print(error)\n"
    )
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:-1]:
        parent.chmod(parent.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True)
    assert done.stdout.count(b"permission denied") == 2, done


def test_missing_and_damaged_json_say_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(MissingArtefact, match="run `make it` first"):
        read_json(tmp_path / "none.json", "make it")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DamagedArtefact, match="run `make it` again"):
        read_json(tmp_path / "bad.json", "make it")


def test_json_refuses_what_json_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "file.json", float("nan"))
    assert list(tmp_path.iterdir()) == []
