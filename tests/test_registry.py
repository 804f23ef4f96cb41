"""The registry is the only list of what comes from elsewhere."""

import ast
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from nanochat.config import Config
from nanochat.data.skills import TASKS
from nanochat.errors import ConfigError
from nanochat.fetch.externals import externals
from nanochat.horizon import with_train_shards
from nanochat.registry import CORPORA, GENERATED, PLAIN_FILES, REGISTRY, TABLES, WORD_TASKS

SOURCE = Path(__file__).parents[1] / "src"
ASK_THE_NETWORK = {
    *("aiohttp", "datasets", "ftplib", "http", "httpx", "httpx2", "huggingface_hub", "pooch"),
    *("requests", "socket", "urllib.request", "urllib3"),
}
MAY_ASK = "nanochat/fetch/web.py"


def strings(tree: ast.Module) -> list[str]:
    """The string constants of a module, its docstrings and bare strings left out."""
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said
    ]


def imported(tree: ast.Module) -> set[str]:
    """Every module that a module imports, and the packages around it, wherever it does."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {".".join(name.split(".")[:n]) for name in names for n in range(1, name.count(".") + 2)}


def test_no_other_module_names_anything_elsewhere() -> None:
    repositories = {source.repo for source in (*CORPORA.values(), *TABLES.values())}
    hosts = {urlsplit(file.url).netloc for file in PLAIN_FILES.values()}
    for file in SOURCE.rglob("*.py"):
        if file.name == "registry.py":
            continue
        for text in strings(ast.parse(file.read_text())):
            assert not any(name in text for name in repositories | hosts), (file, text)
            assert "https://" not in text.replace("https://host/", ""), (file, text)


def test_no_other_module_can_ask_the_network() -> None:
    for file in SOURCE.rglob("*.py"):
        name = str(file.relative_to(SOURCE))
        found = imported(ast.parse(file.read_text())) & ASK_THE_NETWORK
        assert not found or name == MAY_ASK, (name, found)


def test_every_entry_is_asked_for_by_some_config() -> None:
    asked = set()
    for corpus in CORPORA:
        config = with_train_shards(Config.resolve({"preset": "d20", "data": {"source": corpus}}))
        asked |= {external.source.name for external in externals(config.disk)}
    assert asked == set(REGISTRY)


def test_every_entry_says_its_licence_and_its_use() -> None:
    for name, source in REGISTRY.items():
        assert source.name == name
        assert source.licence and source.used_by


def test_the_generated_tasks_are_those_that_can_be_made() -> None:
    assert set(GENERATED) == set(TASKS)
    assert set(WORD_TASKS) == {name for name, task in TASKS.items() if task.made_of == "words"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mid": {"items": {"gsm8": 5}}}, "mid.items names 'gsm8': did you mean gsm8k?"),
        ({"sft": {"items": {"humaneval": 5}}}, "sft.items names 'humaneval': known are"),
        ({"evaluation": {"chat_tasks": ["smoltalk"]}}, "chat_tasks names 'smoltalk': known are"),
    ],
)
def test_an_unknown_task_is_an_error_before_anything_runs(given: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Config.resolve(given)
