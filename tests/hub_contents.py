"""Small files in the formats of the real ones that are downloaded; all of their content is made up.

table("gsm8k")          # a parquet file with the columns and types of openai/gsm8k
"""

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from typing import Any

import pyarrow
import pyarrow.parquet

TEXTS = [f"Document {number} says {number**5}, which is no news." for number in range(300)]


def parquet(columns: dict[str, Any], schema: pyarrow.Schema | None = None) -> bytes:
    """A parquet file of these columns."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), buffer)
    return buffer.getvalue()


def shard(texts: Sequence[str] = TEXTS) -> bytes:
    """A file of a corpus."""
    return parquet({"text": list(texts)})


def table(name: str, rows: int = 40) -> bytes:
    """A split of a table of tasks, with the columns and types that the real one has."""
    numbers = range(rows)
    question = [f"What is {number} plus {number}?" for number in numbers]
    string, strings = pyarrow.string(), pyarrow.list_(pyarrow.string())
    message = pyarrow.struct([("content", string), ("role", string)])
    options = pyarrow.struct([("text", strings), ("label", strings)])
    four = [[str(2 * number + more) for more in range(4)] for number in numbers]
    columns: dict[str, tuple[Any, list[Any]]] = {}
    match name:
        case "smoltalk":
            columns = {
                "messages": (
                    pyarrow.list_(message),
                    [
                        [
                            {"content": text, "role": "user"},
                            {"content": f"It is {2 * number}.", "role": "assistant"},
                        ]
                        for number, text in enumerate(question)
                    ],
                ),
                "source": (string, ["smol-magpie-ultra-short"] * rows),
            }
        case "mmlu":
            columns = {
                "question": (string, question),
                "subject": (string, ["arithmetic"] * rows),
                "choices": (strings, four),
                "answer": (pyarrow.int64(), [0] * rows),
            }
        case "gsm8k":
            worked = "{0} plus {0} is <<{0}+{0}={1}>>{1}.\n#### {1}"
            columns = {
                "question": (string, question),
                "answer": (string, [worked.format(number, 2 * number) for number in numbers]),
            }
        case "arc_easy" | "arc_challenge":
            labels = [list("ABCD") if number % 5 else list("1234") for number in numbers]
            columns = {
                "id": (string, [f"Made_{number}" for number in numbers]),
                "question": (string, question),
                "choices": (
                    options,
                    [
                        {"text": texts, "label": label}
                        for texts, label in zip(four, labels, strict=True)
                    ],
                ),
                "answerKey": (string, [label[0] for label in labels]),
            }
        case "humaneval":
            head = 'def add_{0}(x: int) -> int:\n    """ Adds {0}. """\n'
            test = "\n\ndef check(candidate):\n    assert candidate(1) == {}\n"
            columns = {
                "task_id": (string, [f"HumanEval/{number}" for number in numbers]),
                "prompt": (string, [head.format(number) for number in numbers]),
                "canonical_solution": (string, [f"    return x + {each}\n" for each in numbers]),
                "test": (string, [test.format(1 + number) for number in numbers]),
                "entry_point": (string, [f"add_{number}" for number in numbers]),
            }
    schema = pyarrow.schema([(column, kind) for column, (kind, _) in columns.items()])
    return parquet({column: values for column, (_, values) in columns.items()}, schema)


CORE_TASKS = {
    "copa": ("commonsense_reasoning/copa.jsonl", "multiple_choice", 0, 50),
    "winograd": ("language_understanding/winograd_wsc.jsonl", "schema", 0, 50),
    "bigbench_operators": ("symbolic_problem_solving/bigbench_operators.jsonl",
                           "language_modeling", 10, 0),
}  # fmt: skip


def core_bundle(items: int = 30) -> bytes:
    """A zip file in the layout of the published bundle, with three tasks of our own."""
    tasks, meta = [], io.StringIO()
    writer = csv.writer(meta)
    columns = ("Eval Task", "Task Category", "Task Type", "#shots", "#datapoints")
    writer.writerow([*columns, "Random baseline", "Centered Metric?", "Description"])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for label, (uri, kind, shots, chance) in CORE_TASKS.items():
            tasks += [
                f"  - label: {label}",
                f"    dataset_uri: {uri}",
                f"    icl_task_type: {kind}",
                f"    num_fewshot: [{shots}]",
            ]
            writer.writerow([label, uri.partition("/")[0], kind, shots, items, chance, "", "-"])
            lines = [json.dumps(_core_item(kind, number)) for number in range(items)]
            archive.writestr(f"eval_bundle/eval_data/{uri}", "\n".join(lines) + "\n")
        archive.writestr("eval_bundle/core.yaml", "icl_tasks:\n" + "\n".join(tasks) + "\n")
        archive.writestr("eval_bundle/eval_meta_data.csv", meta.getvalue())
        archive.writestr("__MACOSX/eval_bundle/._core.yaml", "of no use")
    return buffer.getvalue()


def _core_item(kind: str, number: int) -> dict[str, Any]:
    first, second = f"There were {number} cats", f"There were {number} dogs"
    match kind:
        case "multiple_choice":
            return {"query": first, "choices": ["on the mat.", "in the sea."], "gold": 0}
        case "schema":
            return {"context_options": [first, second], "continuation": "and purred.", "gold": 0}
        case _:
            return {"context": f"{number} plus {number} =", "continuation": str(2 * number)}


def plain(name: str) -> bytes:
    """A stand-in for a plain file of the registry."""
    if name == "english_words":
        letters = "abcdefghijklmnopqrstuvwxyz"
        words = sorted({a + b + c + "ing" for a in letters for b in "aeiou" for c in letters})
        return ("\r\n".join(words) + "\r\n").encode()
    return f"stand-in for {name}\n".encode() * 50
