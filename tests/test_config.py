"""The config: presets, unknown keys, drift of what is generated from its types."""

import json
import re
from pathlib import Path

import pytest
import yaml

from nanochat.config import Config, keys, load_config
from nanochat.config_reference import config_page, json_schema, site_page
from nanochat.errors import ConfigError

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config" / "config.yaml"


@pytest.mark.parametrize("preset", ["local", "d12", "d20", "d24"])
def test_every_preset_resolves(preset: str) -> None:
    config = Config.resolve({"preset": preset})
    assert config.model.depth == {"local": 4, "d12": 12, "d20": 20, "d24": 24}[preset]


def test_the_default_config_is_the_local_preset() -> None:
    assert load_config(CONFIG) == Config.resolve({"preset": "local"})


def test_keys_beside_the_preset_replace_its_own() -> None:
    config = Config.resolve({"preset": "local", "model": {"depth": 6}})
    assert (config.model.depth, config.model.sequence_len) == (6, 512)


def test_a_mixture_replaces_the_presets_mixture_whole() -> None:
    config = Config.resolve({"mid": {"items": {"spelling": 5}}})
    assert config.mid.items == {"spelling": 5}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": {"dpth": 4}}, "unknown config key model.dpth: did you mean model.depth?"),
        ({"depth": 4}, "unknown config key depth: did you mean model.depth?"),
        ({"modle": {"depth": 4}}, "unknown config key modle: did you mean model?"),
        ({"preset": "d21"}, "unknown preset 'd21': did you mean d24?"),
        ({"model": {"depth": "deep"}}, "config key model.depth holds 'deep'"),
        ({"model": 4}, "config key model holds 4: it takes keys below it"),
        ({"base": {"tokens_per_parameter": 0}}, "config key base.tokens_per_parameter holds 0"),
        ({"mid": {"total_batch_tokens": 1000}}, "config key mid.total_batch_tokens holds 1000"),
        ({"model": {"sequence_len": 500}}, "config key base.total_batch_tokens holds 4096"),
        ({"run": "../elsewhere"}, "config key run holds '../elsewhere'"),
    ],
)
def test_a_wrong_key_or_value_gets_one_sentence(given: dict, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config.resolve(given)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_yaml_gets_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("model: [")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_config(file)


def test_config_yaml_explains_every_key() -> None:
    """Each key stands in config.yaml, set or commented out, below a line that explains it."""
    lines = CONFIG.read_text().splitlines()
    section = ""
    explained = set()
    for before, line in zip(["", *lines], lines, strict=False):
        match = re.match(r"(\s*)(?:# )?([a-z_]+):(?: |$)", line)
        if not match:
            continue
        if match[1] == "" and line.endswith(":"):
            section = match[2]
        elif before.strip().startswith("# "):
            explained.add(match[2] if match[1] == "" else f"{section}.{match[2]}")
    assert explained == set(keys())


def test_the_commented_keys_of_config_yaml_show_the_defaults() -> None:
    uncommented = re.sub(r"^  # ([a-z_]+:)", r"  \1", CONFIG.read_text(), flags=re.MULTILINE)
    given = yaml.safe_load(uncommented)
    Config.resolve(given)
    for name, section in given.items():
        if isinstance(section, dict):
            fields = Config.model_fields[name].annotation.model_fields
            for key, value in section.items():
                default = fields[key].get_default()
                assert fields[key].is_required() or json.loads(json.dumps(default)) == value, key


def test_the_schema_on_disk_is_that_of_the_types() -> None:
    on_disk = json.loads((ROOT / "workflow/schemas/config.schema.json").read_text())
    assert on_disk == json_schema(), "run `make docs`"


def test_the_page_of_site_keys_on_disk_is_that_of_the_types() -> None:
    on_disk = (ROOT / "docs" / "reference" / "site.md").read_text()
    assert on_disk == site_page(), "run `make docs`"


def test_the_reference_page_on_disk_is_that_of_the_types() -> None:
    on_disk = (ROOT / "docs/reference/config.md").read_text()
    assert on_disk == config_page(), "run `make docs`"


def test_every_key_has_its_help() -> None:
    for line in config_page().splitlines():
        if line.startswith("| `"):
            assert len(line.split("|")[-2].strip()) > 10, line


def test_depth_reruns_training_but_neither_corpus_nor_tokenizer() -> None:
    shallow, deep = (Config.resolve({"model": {"depth": depth}}) for depth in (4, 6))
    for rule in ("corpus", "train_tokenizer", "generate_tasks", "eval_bundle"):
        assert shallow.settings_of(rule) == deep.settings_of(rule)
    assert shallow.settings_of("base_train") != deep.settings_of("base_train")
    assert shallow.disk.tokens == deep.disk.tokens


def test_operation_keys_determine_no_result() -> None:
    usual = Config.resolve({})
    other = Config.resolve({"operation": {"device_rows": 1, "wandb": "offline"}})
    for rule in ("base_train", "mid_train", "chat_sft", "base_eval", "chat_eval"):
        assert usual.settings_of(rule) == other.settings_of(rule)


def test_base_dir_comes_from_the_config_then_the_environment_then_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Config.resolve({}).disk.base_dir == Path(".nanochat")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "/scratch/me")
    assert Config.resolve({}).disk.base_dir == Path("/scratch/me")
    monkeypatch.setenv("WHERE", "/data")
    config = Config.resolve({"paths": {"base_dir": "$WHERE/x"}})
    assert config.disk.base_dir == Path("/data/x")


def test_other_tokenizer_settings_get_another_folder() -> None:
    small, large = (Config.resolve({"tokenizer": {"vocab_size": n}}) for n in (512, 1024))
    assert small.disk.tokenizer != large.disk.tokenizer
    assert small.disk.corpus == large.disk.corpus


def test_the_resolved_config_resolves_to_itself(tmp_path: Path) -> None:
    config = Config.resolve({"preset": "d20", "run": "mine", "model": {"depth": 22}})
    file = tmp_path / "config.yaml"
    file.write_text(config.yaml())
    assert load_config(file) == config


def test_what_the_model_read_follows_from_the_source_and_decides_what_it_says() -> None:
    sources = ("embedded", "climbmix-400b-shuffle", "fineweb-edu-100b-shuffle")
    configs = [Config.resolve({"data": {"source": source}}) for source in sources]
    said = [config.settings_of("identity_conversations")["training_text"] for config in configs]
    assert len(set(said)) == 3
    given = Config.resolve({"chat": {"training_text": "old letters"}})
    assert given.training_text == "old letters"


def test_a_task_of_no_items_is_in_no_mixture() -> None:
    items = {"mmlu": 0, "identity": 0, "spelling": 5}
    config = Config.resolve({"mid": {"items": items}, "sft": {"items": items}})
    assert config.scored_tasks == ["spelling"]
    assert not config.disk.says_who_it_is
