import json
from pathlib import Path

import pytest

from nanochat.data import corpus
from nanochat.data.corpus import build_embedded, import_text
from nanochat.data.shards import read_documents
from nanochat.errors import BadInput

DOCSTRING = "{name} is a function whose purpose nobody remembers, and here is why it is so: {name}."


def write_package(root: Path, name: str, modules: int) -> None:
    folder = root / name
    (folder / "tests").mkdir(parents=True)
    for i in range(modules):
        body = "\n\n\n".join(
            f"def f{j}(x):\n    '''{DOCSTRING.format(name=f'{name}{i}_{j}')}'''" for j in range(4)
        )
        (folder / f"part{i}.py").write_text(body)
    (folder / "tests" / "test_part.py").write_text("'''A test says something long as well.'''")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small installation of two packages, one of which is this project's own."""
    root = tmp_path / "library"
    write_package(root, "alpha", modules=150)
    write_package(root, "nanochat", modules=3)
    monkeypatch.setattr(corpus, "_library_folders", lambda: [root])
    return root


def all_text(folder: Path, numbers: range) -> str:
    files = [folder / f"shard_{number:05d}.parquet" for number in numbers]
    return "\n".join(text for file in files for text in read_documents(file))


def modules_of(text: str) -> set[str]:
    heads = (line.split("(")[0] for line in text.splitlines() if line.startswith("alpha."))
    return {head.rsplit(".", 1)[0] for head in heads}


def test_embedded_corpus_holds_out_whole_modules(library: Path, tmp_path: Path) -> None:
    records = build_embedded(tmp_path / "out", train_shards=2, workers=1)
    train = modules_of(all_text(tmp_path / "out", range(2)))
    validation = modules_of(all_text(tmp_path / "out", range(2, 3)))
    assert len(train) + len(validation) == 150
    assert not train & validation
    assert 0 < len(validation) < 15
    assert len(records) == 3


def test_embedded_corpus_leaves_out_tests_and_this_project(library: Path, tmp_path: Path) -> None:
    build_embedded(tmp_path / "out", train_shards=1, workers=1)
    text = all_text(tmp_path / "out", range(2))
    assert "alpha.part1.f0(x)\n\nalpha1_0 is a function" in text
    assert "A test says something" not in text
    assert "nanochat" not in text
    assert "Python topic: assert" in text


def test_embedded_corpus_is_the_same_every_time(library: Path, tmp_path: Path) -> None:
    hashes = [
        [record["sha256"] for record in build_embedded(tmp_path / name, 2, workers=workers)]
        for name, workers in (("one", 1), ("two", 2))
    ]
    assert hashes[0] == hashes[1]


def test_docstring_that_repeats_another_is_left_out(library: Path, tmp_path: Path) -> None:
    long_line = "It multiplies the first argument by the second one, elementwise, and rounds."
    for name, end in (("first", "Made for pandas."), ("second", "Made for numpy.")):
        text = f"'''{long_line}\n\n{long_line.replace('first', 'last')}\n\n{end} {'-' * 30}'''"
        (library / "alpha" / f"{name}.py").write_text(text + "\n" + "x = 1\n")
    (library / "alpha" / "third.py").write_text(f"'''{long_line} {'And it is new. ' * 20}'''")
    build_embedded(tmp_path / "out", train_shards=1, workers=1)
    text = all_text(tmp_path / "out", range(2))
    assert text.count(long_line + "\n") <= 1
    assert "alpha.third" in text


def write_texts(folder: Path, numbers: range) -> Path:
    folder.mkdir(exist_ok=True)
    for i in numbers:
        (folder / f"{i}.txt").write_text(f"story {i}\n\nonce upon a time")
    return folder


def test_every_kind_of_file_is_imported(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "source", range(10))
    (source / "a.jsonl").write_text('{"text": "from json"}\n\n{"text": "twice"}\n{"text": "twice"}')
    corpus.write_shards([(0, "from parquet")], source / "deep", 1, {})
    records = import_text(source, tmp_path / "out", train_shards=2)
    texts = all_text(tmp_path / "out", range(3))
    for expected in ("from json", "from parquet", "story 3\n\nonce upon a time"):
        assert expected in texts
    assert texts.count("twice") == 1
    assert sum(record["documents"] for record in records) == 13


def test_more_files_move_no_document_between_train_and_validation(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "source", range(300))
    import_text(source, tmp_path / "few", train_shards=2)
    few = {text for text in read_documents(tmp_path / "few" / "shard_00002.parquet")}
    write_texts(source, range(300, 500))
    import_text(source, tmp_path / "many", train_shards=3)
    many = {text for text in read_documents(tmp_path / "many" / "shard_00003.parquet")}
    assert few < many
    assert len(many) < 30


def test_long_text_is_cut_at_empty_lines_and_loses_nothing(tmp_path: Path) -> None:
    text = "".join(f"paragraph {i}, first line\nsecond line\n\n" for i in range(20_000))
    (tmp_path / "book.txt").write_text(text)
    import_text(tmp_path / "book.txt", tmp_path / "out", train_shards=1)
    files = [tmp_path / "out" / f"shard_{number:05d}.parquet" for number in range(2)]
    pieces = [piece for file in files for piece in read_documents(file)]
    assert sum(map(len, pieces)) == len(text)
    assert all(piece.startswith("paragraph") and piece.endswith("\n\n") for piece in pieces)
    assert max(map(len, pieces)) < corpus.LONGEST_TXT + 100


def test_text_without_empty_lines_is_cut_too(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("".join(f"line {i}\n" for i in range(60_000)))
    import_text(tmp_path / "log.txt", tmp_path / "out", train_shards=1)
    longest = max(map(len, read_documents(tmp_path / "out" / "shard_00000.parquet")))
    assert longest < 2 * corpus.LONGEST_TXT + 100


@pytest.mark.parametrize("line", ['{"content": "x"}', "{broken", '"only a string"', '{"text": 3}'])
def test_bad_line_of_json_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "good"}) + "\n" + line)
    with pytest.raises(BadInput, match=r"a\.jsonl, line 2 is not an object"):
        import_text(tmp_path, tmp_path / "out", train_shards=1)


def test_text_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Käse".encode("latin-1"))
    with pytest.raises(BadInput, match=r"a\.txt is not UTF-8 \(byte 0xe4\)"):
        import_text(tmp_path, tmp_path / "out", train_shards=1)


def test_source_of_empty_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(BadInput, match="holds no text"):
        import_text(tmp_path, tmp_path / "out", train_shards=1)


def test_source_of_too_few_documents_is_refused(tmp_path: Path) -> None:
    source = write_texts(tmp_path / "source", range(3))
    with pytest.raises(BadInput, match="too few"):
        import_text(source, tmp_path / "out", train_shards=8)
