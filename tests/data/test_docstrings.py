import warnings

from nanochat.data.docstrings import (
    DOCUMENT_CHARACTERS,
    Item,
    is_licence,
    join_items,
    module_items,
)

SOURCE = '''
"""Shapes and what they weigh."""

class Box(Shape, Generic[T]):
    """A box with six sides.

        Indented further.
    And no more.
    """

    def weigh(self, *, unit="kg", factor: float = 1.0) -> float:
        """Weight of the box, in `unit`."""
        def inner():
            """Nobody can call this from outside."""

    def silent(self): ...

try:
    async def open_box(box): "Opens a box without a sound."
except ImportError:
    pass
'''


def test_items_have_the_headings_of_a_reference() -> None:
    assert module_items(SOURCE, "shop.shapes") == [
        Item("shop.shapes", "Shapes and what they weigh."),
        Item(
            "class shop.shapes.Box(Shape, Generic[T])",
            "A box with six sides.\n\n    Indented further.\nAnd no more.",
        ),
        Item(
            "shop.shapes.Box.weigh(self, *, unit='kg', factor: float=1.0)",
            "Weight of the box, in `unit`.",
        ),
        Item("shop.shapes.open_box(box)", "Opens a box without a sound."),
    ]


def test_document_is_headings_and_docstrings() -> None:
    items = [Item("a", "About a."), Item("a.f(x)", "About f.")]
    assert join_items(items) == ["a\n\nAbout a.\n\n\na.f(x)\n\nAbout f."]


def test_long_modules_are_cut_between_items() -> None:
    items = [Item(f"f{i}()", "word " * 200) for i in range(20)]
    documents = join_items(items)
    assert "\n\n\n".join(documents) == "\n\n\n".join(item.text() for item in items)
    assert all(len(document) < DOCUMENT_CHARACTERS + 1500 for document in documents)
    assert len(documents) == 5


def test_long_signatures_are_shortened() -> None:
    arguments = ", ".join(f"argument_{i}=None" for i in range(30))
    (item,) = module_items(f'def f({arguments}): "Takes a great many arguments."', "m")
    assert item.heading.endswith(", ...)")
    assert len(item.heading) < 220


def test_licences_and_remarks_of_a_word_are_no_documentation() -> None:
    assert module_items('"""Copyright X.  All rights\n   reserved."""', "m") == []
    assert module_items('"""Short."""', "m") == []
    assert not is_licence("A function that reserves all rights of way.")


def test_source_that_does_not_parse_gives_nothing() -> None:
    too_deep = "x = " + "-" * 100_000 + "1"
    for source in ("print 'python 2'", "{{ template }} !", b"\xff\xfe\x00", "\0", too_deep):
        assert module_items(source, "m") == []


def test_other_peoples_warnings_stay_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert module_items('"""A path such as C:\\Windows and so on."""', "m")
