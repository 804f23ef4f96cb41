"""The arrows between packages, read from the source; and what loads without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "nanochat"
EVERYBODY = {"config", "errors", "files", "paths", "progress", "registry", "settings"}
MAY_IMPORT = {
    "train": {"model", "data", "track", "hpc"},
    "eval": {"model", "data"},
    "serve": {"model", "data"},
    "model": set(),
    "data": set(),
    "fetch": {"data"},
    "track": set(),
    "hpc": set(),
    "report": set(),
}


def imported_packages(file: Path) -> set[str]:
    """First part below `nanochat` of everything that a module imports from this project."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("nanochat.")}
    return found


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_what_the_arrows_allow(package: str) -> None:
    allowed = MAY_IMPORT[package] | EVERYBODY | {package}
    for file in (SOURCE / package).rglob("*.py"):
        assert imported_packages(file) <= allowed, file


def test_every_package_has_its_arrows() -> None:
    packages = {file.parent.name for file in SOURCE.glob("*/__init__.py")}
    assert packages == set(MAY_IMPORT)


def test_the_shared_modules_import_each_other_only() -> None:
    for name in EVERYBODY:
        assert imported_packages(SOURCE / f"{name}.py") <= EVERYBODY


@pytest.mark.parametrize(
    "module",
    ["nanochat.cli", "nanochat.config", "nanochat.horizon", "nanochat.model.scaling"]
    + ["nanochat.data.layout", "nanochat.fetch.externals", "nanochat.fetch.room"]
    + [f"nanochat.{package}.{file.stem}" for package in ("hpc", "track", "report")
       for file in sorted((SOURCE / package).glob("*.py"))
       if file.stem not in ("__init__", "executor")],
)  # fmt: skip
def test_login_node_modules_load_no_torch(module: str) -> None:
    script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


def test_packages_re_export_nothing() -> None:
    for file in SOURCE.rglob("__init__.py"):
        assert file.read_text() == "", file
