"""Room on a disk: the file system's, and what quotas leave; asked for before the first byte."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanochat.errors import DiskError
from nanochat.fetch import room as room_module
from nanochat.fetch.room import (
    Allowance,
    Quota,
    format_bytes,
    parse_quotas,
    require_room,
    room_at,
)

# Recorded from quota 4.06 as `quota -w -p -u -g --show-mntpoint --hide-device` on Linux 6.1: ext4
# and XFS with quotas that the kernel enforces, after writing until "Disk quota exceeded".
RECORDED = """\
Disk quotas for user quotauser (uid 1001): 
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
         /run/q    1999*   1000    2000 1795994708      20*     10      20 1795994709
         /run/x     492    1000    2000       0       2      10      20       0
Disk quotas for group quotauser (gid 1001): 
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
         /run/q    1999    5000    6000       0      20       0       0       0
         /run/x     492    5000    6000       0       2       0       0       0
"""
NO_QUOTA = "Disk quotas for group quotauser (gid 1001): no limited resources used\n"
# Not recorded: the form that lfs-quota(1) and the Lustre manual show. `-q` leaves out the header;
# a path of more than 15 characters has a line of its own; [] marks what a server did not confirm.
LUSTRE = """\
Disk quotas for usr bob (uid 6000):
     Filesystem  kbytes   quota   limit   grace   files   quota   limit   grace
    /mnt/testfs       0   30720   30920       -       0   10000   11000       -
"""
LUSTRE_LONG = """\
/lustre/scratch/alice
                  [31000]* 30720   40960 6d23h59m50s   11000*  10000   11000    none
"""


def allowance(used: int = 0, soft: int = 0, hard: int = 0, grace: str = "0") -> Allowance:
    return Allowance(used, soft, hard, grace)


def test_a_recorded_quota_is_read() -> None:
    used_up, other, group, _ = parse_quotas(RECORDED)
    assert used_up == Quota(
        "user quotauser",
        Path("/run/q"),
        allowance(1999 * 1024, 1000 * 1024, 2000 * 1024, "1795994708"),
        allowance(20, 10, 20, "1795994709"),
    )
    assert other.filesystem == Path("/run/x")
    assert (group.whose, group.bytes.hard, group.files.hard) == ("group quotauser", 6000 * 1024, 0)
    assert parse_quotas(NO_QUOTA) == []
    assert parse_quotas("quota: Cannot open quotafile: No such file or directory\n") == []


def test_a_mount_point_with_a_blank_is_read() -> None:
    line = "   /mnt/my disk    1  2  3  0  4  5  6  0\n"
    assert parse_quotas(line)[0].filesystem == Path("/mnt/my disk")


def test_the_documented_form_of_lfs_quota_is_read() -> None:
    (bob,) = parse_quotas(LUSTRE)
    assert (bob.whose, bob.bytes.hard, bob.files.soft) == ("user bob", 30920 * 1024, 10000)
    (alice,) = parse_quotas(LUSTRE_LONG, "user alice")
    assert (alice.whose, alice.filesystem) == ("user alice", Path("/lustre/scratch/alice"))
    assert alice.bytes == allowance(31000 * 1024, 30720 * 1024, 40960 * 1024, "6d23h59m50s")
    assert alice.files == allowance(11000, 10000, 11000, "none")


@pytest.mark.parametrize(
    ("quota", "left"),
    [
        (allowance(used=10), None),
        (allowance(used=10, hard=30), 20),
        (allowance(used=40, hard=30), 0),
        (allowance(used=10, soft=20, hard=30), 20),
        (allowance(used=25, soft=20, hard=30, grace="2000"), 5),
        (allowance(used=25, soft=20, hard=30, grace="999"), 0),
        (allowance(used=25, soft=20, grace="expired"), 0),
        (allowance(used=25, soft=20, grace="6d23h"), None),
    ],
)
def test_the_hard_limit_counts_and_the_soft_one_once_its_grace_is_over(
    quota: Allowance, left: int | None
) -> None:
    assert quota.left(now=1000) == left


def test_more_than_the_disk_holds_is_refused_and_less_is_not(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(1_000_000))
    folder = small_disk / "not" / "yet"
    free = room_at(folder).free_bytes
    assert require_room(folder, free / 1.06, 10).bytes_left == free
    with pytest.raises(DiskError) as refused:
        require_room(folder, free / 1.04, 10)
    assert re.fullmatch(
        rf"{folder} has to take 3\.\d MB in 10 files \(5 % to spare\), but its file system has "
        r"room for 3\.2 MB: free some space there, or set NANOCHAT_BASE_DIR to a folder with more",
        str(refused.value),
    )
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_more_files_than_the_disk_can_name_are_refused(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,nr_inodes=50", str(small_disk)], check=True)
    require_room(small_disk, 1000, 40)
    with pytest.raises(DiskError, match=r"in 52 files .* its file system has room for 49 files"):
        require_room(small_disk, 1000, 50)


def test_nothing_to_write_always_has_room(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
    require_room(small_disk, 0, 0)


def program(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that comes first in PATH, without `quota` and `lfs` as yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program(folder, "quota", "exit 1")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_a_quota_is_refused_in_its_owners_name(programs: Path, tmp_path: Path) -> None:
    mount = tmp_path
    while not mount.is_mount():
        mount = mount.parent
    program(programs, "quota", f"echo '{mount} 1000* 10 3000 0  7 0 9 0' | sed 's/^/  /'; exit 1")
    room = room_at(tmp_path)
    assert {quota.filesystem for quota in room.quotas} == {mount}
    assert (room.bytes_left, room.files_left) == (2000 * 1024, 2)
    with pytest.raises(DiskError, match=r"but the quota of .* has room for 2.0 MB"):
        require_room(tmp_path, 2e6, 1)
    with pytest.raises(DiskError, match="has room for 2 files"):
        require_room(tmp_path, 1000, 3)


def test_a_soft_limit_that_will_be_passed_is_a_note(programs: Path, tmp_path: Path) -> None:
    program(programs, "lfs", 'echo "     $5  1000  1500  3000  -  7  0  0  -"')
    assert require_room(tmp_path, 400_000, 1).notes == ()
    notes = require_room(tmp_path, 600_000, 1).notes
    assert len(notes) == 2, "the user's and the group's"
    assert re.match("this goes over the soft limit of user .* the grace period only", notes[0])


def test_quotas_of_other_file_systems_do_not_count(programs: Path, tmp_path: Path) -> None:
    program(programs, "quota", "echo '   /proc  1000  10  1000  0  7  0  9  0'")
    assert room_at(tmp_path).quotas == ()


@pytest.mark.timeout(60)
def test_a_quota_server_that_hangs_is_left_behind_with_a_note(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The child keeps the pipe open, as one that no signal reaches would.
    pids = tmp_path / "pids"
    program(programs, "quota", f"setsid sleep 100 & echo $! >> {pids}; sleep 100")
    monkeypatch.setattr(room_module, "ANSWER_SECONDS", 0.5)
    notes = require_room(tmp_path, 1000, 1).notes
    assert [note.split("` ")[1] for note in notes] == [
        "gave no answer: the quota there is not known"
    ] * 2
    for pid in pids.read_text().split():
        os.kill(int(pid), signal.SIGKILL)


@pytest.fixture
def quota_disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 file system with a real quota of this user; skips where none may be made."""
    folder, image = tmp_path / "quota_disk", tmp_path / "image"
    folder.mkdir()
    image.touch()
    os.truncate(image, 16 << 20)
    if missing := [name for name in ("mkfs.ext4", "quotacheck", "quota") if not _which(name)]:
        pytest.skip(f"needs {', '.join(missing)} (the package quota)")
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mount = ["mount", "-o", "loop,usrquota", image, folder]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a file system with quotas")
    user = str(os.getuid())
    subprocess.run(["quotacheck", "-cum", folder], check=True)
    subprocess.run(["setquota", "-u", user, "1000", "3000", "0", "50", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def test_a_real_quota_of_a_real_file_system_is_kept_to(quota_disk: Path) -> None:
    room = require_room(quota_disk / "below", 2e6, 20)
    (quota,) = room.quotas
    assert quota.filesystem == quota_disk
    assert (quota.bytes.hard, quota.files.hard) == (3000 * 1024, 50)
    assert "soft limit" in room.notes[0]
    with pytest.raises(DiskError, match=r"but the quota of user .* has room for 3.1 MB"):
        require_room(quota_disk, 3.1e6, 20)
    with pytest.raises(DiskError, match=r"but the quota of user .* has room for 4[5-9] files"):
        require_room(quota_disk, 1000, 50)


def test_sizes_are_written_with_their_unit() -> None:
    sizes = (0, 999, 1000, 999_600, 18_249_000_000, 2e12)
    assert [format_bytes(size) for size in sizes] == [
        *("0 bytes", "999 bytes", "1 kB", "1.0 MB", "18.2 GB", "2.0 TB")
    ]
