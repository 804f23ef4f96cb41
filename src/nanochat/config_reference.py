"""What is generated from the config's types: the JSON schema and the reference page.

`make docs` writes them (workflow/schemas/config.schema.json, docs/reference/config.md and site.md)
through `nanochat config schema` and `nanochat config reference`; the tests compare them. Writes
nothing.
"""

import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from nanochat.config import Config, is_section
from nanochat.settings import Section


def json_schema() -> dict[str, Any]:
    """The config's JSON schema, as in workflow/schemas/config.schema.json."""
    return Config.model_json_schema()


def config_page() -> str:
    """docs/reference/config.md."""
    source = "Written by `make docs` from src/nanochat/config.py."
    return _page(Config, "Config keys", source, required="from the preset")


def site_page() -> str:
    """docs/reference/site.md: the keys of a profile's site.yaml, and what replaces them."""
    from nanochat.hpc.site import OVERRIDES, Site

    source = "Keys of `site` in profiles/&lt;cluster&gt;/site.yaml. Written by `make docs`."
    rows = [f"| `{name}` | `{'.'.join(path)}` |" for name, path in OVERRIDES.items()]
    replaced = [
        "",
        "## Replaced by the environment",
        "",
        "In the shell, or in .env.local; the shell wins.",
        "",
        "| variable | key |",
        "|---|---|",
        *rows,
    ]
    return _page(Site, "Site keys", source, required="has to be given") + "\n".join(replaced) + "\n"


def _page(root: type[Section], title: str, source: str, required: str) -> str:
    """Every key with type, default (`required` where it has none) and meaning."""
    lines = [f"# {title}", "", source, ""]
    for name, field in root.model_fields.items():
        if not is_section(field.annotation):
            lines += _table_of({name: field}, "", required)
    for name, field in root.model_fields.items():
        if is_section(field.annotation):
            section = typing.cast(type[Section], field.annotation)
            help_text = " ".join((section.__doc__ or "").split())
            lines += ["", f"## `{name}`", "", help_text, ""]
            lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
            lines += _table_of(section.model_fields, f"{name}.", required)
    header = ["| key | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join(lines[:4] + header + lines[4:]) + "\n"


def _table_of(fields: Mapping[str, Any], prefix: str, required: str) -> list[str]:
    rows = []
    for name, field in fields.items():
        default = required if field.is_required() else f"`{field.get_default()!r}`"
        meaning = " ".join((field.description or "").split()).replace("|", "\\|")
        kind = _type_name(field.annotation).replace("|", "\\|")
        rows.append(f"| `{prefix}{name}` | {kind} | {default} | {meaning} |")
    return rows


def _type_name(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(_type_name(part) for part in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"list of {_type_name(get_args(annotation)[0])}"
    if get_origin(annotation) is dict:
        return " → ".join(_type_name(part) for part in get_args(annotation))
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    return str(annotation.__name__)
