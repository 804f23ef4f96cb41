"""Documentation out of Python source files, read with `ast` and never imported.

    items = module_items(source, "json")
    documents = join_items(items)

An item is a heading line and the docstring below it, as a reader of the library's reference would
see it:

    json                                            a module
    class json.JSONDecoder(object)                  a class with its bases
    json.dumps(obj, *, skipkeys=False, indent=None) a function or method with its signature

    Serialize ``obj`` to a JSON formatted ``str``.

A document is the items of one module in source order, an empty line between heading and docstring,
two between items, cut between items once it is long enough. Reads and writes no files.
"""

import ast
import inspect
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LONGEST_SIGNATURE = 200
SHORTEST_DOCSTRING = 20
DOCUMENT_CHARACTERS = 4000

LICENCE_PHRASES = (
    "permission is hereby granted",
    "all rights reserved",
    "redistribution and use in source",
    "licensed under the apache",
    "without warranty",
    "without warranties",
    "gnu general public license",
    "spdx-license-identifier",
)


@dataclass(frozen=True)
class Item:
    """One documented thing: its heading line, and its docstring without indentation."""

    heading: str
    docstring: str

    def text(self) -> str:
        return f"{self.heading}\n\n{self.docstring}"


def module_items(source: bytes | str, module: str) -> list[Item]:
    """All documented items of a module's source, in order; none if it is not valid Python 3."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escapes
            tree = ast.parse(source)
        return list(_walk(tree, module, module))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []  # templates, Python 2, and expressions too deep for the parser's stack


def join_items(items: Iterable[Item]) -> list[str]:
    """Documents of about DOCUMENT_CHARACTERS; an item is never cut."""
    documents: list[str] = []
    part: list[str] = []
    for item in items:
        part.append(item.text())
        if sum(map(len, part)) >= DOCUMENT_CHARACTERS:
            documents.append("\n\n\n".join(part))
            part = []
    return documents + (["\n\n\n".join(part)] if part else [])


def is_licence(text: str) -> bool:
    """Whether a text is mostly the words lawyers ask for: a licence phrase in its first lines."""
    beginning = " ".join(text[:1500].lower().split())
    return any(phrase in beginning for phrase in LICENCE_PHRASES)


def _walk(node: ast.AST, name: str, heading: str) -> Iterator[Item]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node, clean=False)
        if docstring and (item := _item(heading, docstring)):
            yield item
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            bases = ", ".join(ast.unparse(base) for base in child.bases)
            below = f"{name}.{child.name}"
            yield from _walk(child, below, _shortened(f"class {below}", bases))
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            # What is defined inside a function cannot be reached by name, so it is left out.
            yield from _function(child, f"{name}.{child.name}")
        elif isinstance(child, ast.If | ast.Try):
            yield from _walk(child, name, heading)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Iterator[Item]:
    docstring = ast.get_docstring(node, clean=False)
    if docstring and (item := _item(_shortened(name, ast.unparse(node.args)), docstring)):
        yield item


def _item(heading: str, docstring: str) -> Item | None:
    text = inspect.cleandoc(docstring).encode("utf-8", "replace").decode()
    lines = [line.rstrip() for line in text.splitlines()]
    text = "\n".join(lines).strip()
    if len(text) < SHORTEST_DOCSTRING or is_licence(text):
        return None
    return Item(heading, text)


def _shortened(name: str, arguments: str) -> str:
    if len(arguments) <= LONGEST_SIGNATURE:
        return f"{name}({arguments})"
    return f"{name}({arguments[:LONGEST_SIGNATURE].rsplit(', ', 1)[0]}, ...)"
