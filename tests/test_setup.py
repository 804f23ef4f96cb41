"""workflow/envs/setup.sh, in a checkout of its own: all on scratch, nothing under home, no network.

The package that it installs is a stand-in without dependencies, built by a few lines of Python in
the checkout, which cache where pip and its like do; through a .pth file its `nanochat` command is
this checkout's.
"""

import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

from nanochat.hpc.environment import CACHES

ROOT = Path(__file__).parents[1]
MODULE = "BASH_FUNC_module%%"
# As real ones: a function of the shell that reads variables which nobody has set.
LOADS = '() {  echo "module $* ${NEVER_SET}" >> "$MODULES_LOADED"\n}'
SITE = """site:
  # A comment with python_module: wrong in it.
  scratch: "{scratch}"   # with a comment
  python_module: python/3.12.5 # the system's is too old
  gpu: {{partition: gpu, peak_tflops: 1}}
"""
PYPROJECT = """[build-system]
requires = []
build-backend = "stand_in"
backend-path = ["."]
"""
BACKEND = f"""import os
import zipfile

PATHS = {[str(ROOT / "src"), sysconfig.get_path("purelib")]!r}
INFO = "stand_in-1.dist-info/"


def build_editable(folder, config_settings=None, metadata_directory=None):
    for variable, default in (("XDG_CACHE_HOME", "~/.cache"), ("PIP_CACHE_DIR", "~/.cache/pip")):
        os.makedirs(os.path.expanduser(os.environ.get(variable, default)), exist_ok=True)
    name = "stand_in-1-py3-none-any.whl"
    about = "Metadata-Version: 2.1\\nName: stand-in\\nVersion: 1\\n"
    extras = "Provides-Extra: workflow\\nProvides-Extra: wandb\\n"
    kind = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    commands = "[console_scripts]\\nnanochat = nanochat.cli:main\\n"
    with zipfile.ZipFile(f"{{folder}}/{{name}}", "w") as wheel:
        wheel.writestr("stand_in.pth", "\\n".join(PATHS))
        wheel.writestr(INFO + "METADATA", about + extras)
        wheel.writestr(INFO + "WHEEL", kind)
        wheel.writestr(INFO + "entry_points.txt", commands)
        wheel.writestr(INFO + "RECORD", "")
    return name
"""


@dataclass
class Checkout:
    """A checkout with setup.sh and a profile, beside a scratch and an empty home."""

    folder: Path

    def __post_init__(self) -> None:
        for name in ("home", "scratch"):
            (self.folder / name).mkdir(parents=True)
        script = self.root / "workflow" / "envs" / "setup.sh"
        script.parent.mkdir(parents=True)
        shutil.copy(ROOT / "workflow" / "envs" / "setup.sh", script)
        self.profile.mkdir(parents=True)
        self.describe(str(self.folder / "scratch"))
        (self.root / "constraints.txt").touch()
        (self.root / "pyproject.toml").write_text(PYPROJECT)
        (self.root / "stand_in.py").write_text(BACKEND)

    @property
    def root(self) -> Path:
        return self.folder / "the checkout"

    @property
    def profile(self) -> Path:
        return self.root / "profiles" / "mine"

    @property
    def venv(self) -> Path:
        return self.folder / "scratch" / "nanochat" / "venv"

    def describe(self, scratch: str) -> None:
        (self.profile / "site.yaml").write_text(SITE.format(scratch=scratch))

    def environment(self, **variables: str) -> dict[str, str]:
        return {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.folder / "home"),
            "USER": "somebody",
            "PYTHON": sys.executable,
            "PIP_NO_INDEX": "1",
            "MODULES_LOADED": str(self.folder / "modules"),
            MODULE: LOADS,
            **variables,
        }

    def setup(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "workflow/envs/setup.sh", *(arguments or ("profiles/mine",))],
            cwd=self.root,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=120,
        )

    def sourced(self) -> dict[str, str]:
        """The environment after `source env.sh`, from another folder."""
        done = subprocess.run(
            ["bash", "-ec", 'source "$1"; env -0', "bash", str(self.root / "env.sh")],
            cwd="/",
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return dict(line.split("=", 1) for line in done.stdout.split("\0") if "=" in line)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout in which the environment has been built once, on a scratch with a space in it."""
    checkout = Checkout(tmp_path_factory.mktemp("set up"))
    done = checkout.setup()
    assert done.returncode == 0, done.stdout + done.stderr
    return checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_everything_lies_on_scratch_and_home_stays_empty(built: Checkout) -> None:
    assert (built.venv / "bin" / "nanochat").is_file()
    assert list((built.folder / "home").iterdir()) == []
    assert {path.name for path in (built.folder / "scratch" / "nanochat").iterdir()} == {
        "venv",
        "cache",
    }


def test_the_module_of_the_site_is_loaded(built: Checkout) -> None:
    assert (built.folder / "modules").read_text().startswith("module load python/3.12.5")


def test_env_sh_sets_the_base_folder_and_every_cache(built: Checkout) -> None:
    seen = built.sourced()
    folder = built.folder / "scratch" / "nanochat"
    expected = {name: str(folder / "cache" / part) for name, part in CACHES.items()}
    assert {name: seen.get(name) for name in CACHES} == expected
    assert seen["NANOCHAT_BASE_DIR"] == str(folder)
    assert seen["PATH"].startswith(f"{built.venv}/bin:")
    assert list((built.folder / "home").iterdir()) == []


def test_a_second_time_changes_nothing(built: Checkout) -> None:
    before = [(built.venv / "pyvenv.cfg").stat().st_mtime_ns, (built.root / "env.sh").read_text()]
    done = built.setup()
    assert done.returncode == 0, done.stderr
    after = [(built.venv / "pyvenv.cfg").stat().st_mtime_ns, (built.root / "env.sh").read_text()]
    assert after == before


def test_an_environment_that_was_half_built_is_built_anew(checkout: Checkout) -> None:
    (checkout.venv / "bin").mkdir(parents=True)
    (checkout.venv / "bin" / "python").symlink_to("/a/python/that/is/gone")
    done = checkout.setup()
    assert done.returncode == 0, done.stderr
    assert (checkout.venv / "bin" / "nanochat").is_file()


def test_the_shell_wins_over_env_local_and_this_over_the_profile(checkout: Checkout) -> None:
    (checkout.root / ".env.local").write_text(
        "NANOCHAT_INTERNET_HOSTS=a* $(touch never)\n#NANOCHAT_SCRATCH=/not/this\n"
        "NANOCHAT_SCRATCH='/nowhere/$USER' # mine\n"
    )
    assert_refused(checkout.setup(), "/nowhere/somebody is not there")
    assert_refused(checkout.setup(NANOCHAT_SCRATCH="/elsewhere/x"), "/elsewhere/x is not there")
    assert not (checkout.root / "never").exists()


def test_a_scratch_that_is_missing_is_refused(checkout: Checkout) -> None:
    checkout.describe("/missing/$USER")
    assert_refused(checkout.setup(), "/missing/somebody is not there", "NANOCHAT_SCRATCH")


def test_an_old_python_is_refused(checkout: Checkout) -> None:
    old = checkout.folder / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.14 || exit 1\n')
    old.chmod(0o755)
    assert_refused(checkout.setup(PYTHON=str(old)), "Python 3.9.14 is too old", "python_module")


def test_a_host_without_the_module_command_is_refused(checkout: Checkout) -> None:
    assert_refused(checkout.setup(**{MODULE: ""}), "no `module` command", "python/3.12.5")


def test_a_module_that_is_missing_is_refused(checkout: Checkout) -> None:
    assert_refused(checkout.setup(**{MODULE: "() {  return 1\n}"}), "no module python/3.12.5")


@pytest.mark.parametrize("arguments", [("profiles/none",), ("",)], ids=["missing", "unnamed"])
def test_a_profile_that_is_not_there_is_refused(
    checkout: Checkout, arguments: tuple[str, ...]
) -> None:
    assert_refused(checkout.setup(*arguments), "make env PROFILE=profiles/")
