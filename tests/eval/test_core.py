"""CORE scores against a slow computation of one prompt at a time, on tiny real models."""

import json
import random
from pathlib import Path

import pytest
import torch
import yaml

from nanochat.errors import DamagedArtefact, MissingArtefact
from nanochat.eval.core import (
    Option,
    crop,
    evaluate_core,
    few_shots,
    find_options,
    mean_losses,
    select,
)
from nanochat.eval.core_tasks import Task, load_tasks, read_items, render

TOPICS = ["red", "green", "blue", "black", "white", "brown", "pink", "grey"]
ANIMALS = ["horse", "sheep", "goose", "crow", "mouse", "otter", "whale", "lizard"]


def questions(kind: str) -> list[dict]:
    """Eight questions about which animal has which colour; the colour in place n fits animal n."""
    made = []
    for n, (colour, animal) in enumerate(zip(TOPICS, ANIMALS, strict=True)):
        wrong = TOPICS[(n + 3) % 8]
        colours = [colour, wrong] if n % 2 == 0 else [wrong, colour]
        if kind == "multiple_choice":
            made.append({"query": f"The {animal} is", "choices": colours, "gold": n % 2})
        elif kind == "schema":
            contexts = [f"A {shade} thing is" for shade in colours]
            made.append(
                {"context_options": contexts, "continuation": f"the {animal}.", "gold": n % 2}
            )
        else:
            made.append({"context": f"So the {animal} has to be ", "continuation": colour})
    return made


CHANCES = {"multiple_choice": 50, "schema": 50, "language_modeling": 0}


def write_bundle(folder: Path, shots: int = 2, absent: tuple[str, ...] = ()) -> Path:
    entries, rows = [], ["Eval Task,Random baseline"]
    for kind, chance in CHANCES.items():
        uri = f"animals/{kind}.jsonl"
        entries.append(
            {
                "label": f"animals_{kind}",
                "dataset_uri": uri,
                "icl_task_type": kind,
                "num_fewshot": [shots],
            }
        )
        rows.append(f"animals_{kind},{chance}")
        path = folder / "eval_data" / uri
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind not in absent:
            path.write_text("".join(json.dumps(item) + "\n" for item in questions(kind)))
    (folder / "core.yaml").write_text(yaml.safe_dump({"icl_tasks": entries}))
    (folder / "eval_meta_data.csv").write_text("\n".join(rows) + "\n")
    return folder


def slow_losses(model, ids: list[int]) -> list[float]:
    """The loss of ids[1:], each a prompt of its own."""
    logits = model.logits(torch.tensor([ids[:-1]]))[0].double()
    logged = torch.log_softmax(logits, dim=-1)
    return [-logged[n, token].item() for n, token in enumerate(ids[1:])]


def slow_accuracy(model, tokenizer, kind: str, shots: int) -> float:
    """Written from the definition, for questions whose parts are known."""
    items = questions(kind)
    random.Random(1337).shuffle(items)
    correct = 0
    for index, item in enumerate(items):
        others = items[:index] + items[index + 1 :]
        before = "".join(
            {
                "multiple_choice": lambda s: f"{s['query']} {s['choices'][s['gold']]}\n\n",
                "schema": lambda s: f"{s['context_options'][s['gold']]} {s['continuation']}\n\n",
                "language_modeling": lambda s: f"{s['context'].strip()} {s['continuation']}\n\n",
            }[kind](shot)
            for shot in random.Random(1234 + index).sample(others, shots)
        )
        if kind == "language_modeling":
            asked = [tokenizer.bos_id, *tokenizer.encode(before + item["context"].strip())]
            wanted = tokenizer.encode(f" {item['continuation']}")
            hits = []
            for n in range(len(wanted)):
                logits = model.logits(torch.tensor([asked + wanted[:n]]))
                hits.append(int(logits[0, -1].argmax()) == wanted[n])
            correct += all(hits)
            continue
        if kind == "multiple_choice":
            texts = [f"{before}{item['query']} {choice}" for choice in item["choices"]]
        else:
            ends = [f"{context} {item['continuation']}" for context in item["context_options"]]
            texts = [before + end for end in ends]
        prompts = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]
        first, second = prompts if kind == "multiple_choice" else [ids[::-1] for ids in prompts]
        shared = 0
        while first[shared] == second[shared]:
            shared += 1
        means = []
        for ids in prompts:
            losses = slow_losses(model, ids)
            scored = losses[shared - 1 :] if kind == "multiple_choice" else losses[-shared:]
            means.append(sum(scored) / len(scored))
        correct += means.index(min(means)) == item["gold"]
    return correct / len(items)


@pytest.fixture
def bundle(tmp_path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture(scope="session")
def scholar(trainable_model, tiny_tokenizer):
    """A model trained on the answers until it knows them by heart."""
    texts = []
    for kind in CHANCES:
        task = Task("", Path(), kind, 0, " ", 0.0)
        for item in questions(kind):
            right = -1 if kind == "language_modeling" else item["gold"]
            texts.append(render(task, item, [])[right])
    rows = [[tiny_tokenizer.bos_id, *ids] for ids in tiny_tokenizer.encode_batch(texts)]
    longest = max(map(len, rows))
    inputs = torch.tensor([row[:-1] + [0] * (longest - len(row)) for row in rows])
    targets = torch.tensor([row[1:] + [-1] * (longest - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(trainable_model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        trainable_model.loss_sum(inputs, targets).div((targets >= 0).sum()).backward()
        optimizer.step()
    return trainable_model


def test_accuracies_equal_a_slow_computation_one_prompt_at_a_time(
    random_models, scholar, tiny_tokenizer, bundle
):
    for model in [*random_models, scholar]:
        record = evaluate_core(model, tiny_tokenizer, bundle, max_per_task=0, batch_rows=5)
        slow = [slow_accuracy(model, tiny_tokenizer, kind, shots=2) for kind in CHANCES]
        assert [task["accuracy"] for task in record["tasks"]] == slow


def test_mean_losses_equal_those_of_each_prompt_alone(random_model, tiny_tokenizer):
    texts = ["A short one", "A much longer prompt than the other, to be padded", "Two of them"]
    options = [Option([tiny_tokenizer.bos_id, *tiny_tokenizer.encode(text)], 3) for text in texts]
    alone = [slow_losses(random_model, option.ids)[2:] for option in options]
    expected = [sum(losses) / len(losses) for losses in alone]
    assert mean_losses(random_model, options, batch_rows=3) == pytest.approx(expected, rel=1e-5)


def test_a_model_that_knows_the_answers_gets_all_of_them(scholar, tiny_tokenizer, tmp_path):
    bundle = write_bundle(tmp_path / "bundle", shots=0)
    record = evaluate_core(scholar, tiny_tokenizer, bundle, max_per_task=0, batch_rows=8)
    assert [task["accuracy"] for task in record["tasks"]] == [1.0, 1.0, 1.0]
    assert record["value"] == 1.0


@pytest.mark.parametrize("batch_rows", [1, 3, 64])
def test_batch_rows_change_nothing(scholar, tiny_tokenizer, bundle, batch_rows):
    expected = evaluate_core(scholar, tiny_tokenizer, bundle, max_per_task=0, batch_rows=7)
    assert evaluate_core(scholar, tiny_tokenizer, bundle, 0, batch_rows) == expected


def test_scores_are_centred_on_chance(random_model, tiny_tokenizer, bundle):
    record = evaluate_core(random_model, tiny_tokenizer, bundle, max_per_task=0, batch_rows=8)
    for task in record["tasks"]:
        chance = CHANCES[task["type"]] / 100
        assert task["chance"] == chance
        assert task["centered"] == pytest.approx((task["accuracy"] - chance) / (1 - chance))
    centred = [task["centered"] for task in record["tasks"]]
    assert record["value"] == pytest.approx(sum(centred) / 3)


def test_tasks_without_data_are_listed_as_missing(random_model, tiny_tokenizer, tmp_path):
    bundle = write_bundle(tmp_path / "bundle", absent=("schema",))
    record = evaluate_core(random_model, tiny_tokenizer, bundle, max_per_task=0, batch_rows=8)
    assert record["missing"] == ["animals_schema"]
    assert [task["type"] for task in record["tasks"]] == ["multiple_choice", "language_modeling"]


@pytest.mark.parametrize("max_per_task", [1, 2, 3])
def test_fewer_questions_than_shots_are_scored_with_the_shots_there_are(
    random_model, tiny_tokenizer, tmp_path, max_per_task
):
    bundle = write_bundle(tmp_path / "bundle", shots=10)
    record = evaluate_core(random_model, tiny_tokenizer, bundle, max_per_task, batch_rows=8)
    assert {task["items"] for task in record["tasks"]} == {max_per_task}
    assert {task["shots"] for task in record["tasks"]} == {max_per_task - 1}


def test_few_shots_are_those_of_the_published_procedure():
    items = select([{"n": n} for n in range(50)], max_per_task=20)
    shuffled = [{"n": n} for n in range(50)]
    random.Random(1337).shuffle(shuffled)
    assert items == shuffled[:20]
    for index in range(20):
        others = [item for number, item in enumerate(items) if number != index]
        assert few_shots(items, index, 10) == random.Random(1234 + index).sample(others, 10)


def test_prompts_follow_the_templates():
    shot, item = {"context": " a ", "continuation": "b"}, {"context": "c ", "continuation": "d"}
    task = Task("", Path(), "language_modeling", 1, "\nAnswer: ", 0.0)
    assert render(task, item, [shot]) == [
        "a\nAnswer: b\n\nc\nAnswer:",
        "a\nAnswer: b\n\nc\nAnswer: d",
    ]


def test_scored_tokens_are_what_differs_and_never_nothing():
    assert find_options("multiple_choice", [[1, 2, 3], [1, 2, 4, 5]]) == [
        Option([1, 2, 3], 2),
        Option([1, 2, 4, 5], 2),
    ]
    assert find_options("schema", [[1, 2, 9, 8], [1, 3, 4, 9, 8]]) == [
        Option([1, 2, 9, 8], 2),
        Option([1, 3, 4, 9, 8], 3),
    ]
    assert find_options("language_modeling", [[1, 2], [1, 2, 7, 8]]) == [Option([1, 2, 7, 8], 2)]
    assert find_options("multiple_choice", [[1, 2], [1, 2]])[0].start == 1
    assert find_options("schema", [[1, 2], [1, 2]])[0].start == 1


def test_a_prompt_longer_than_the_context_loses_its_beginning_but_not_bos():
    assert crop(Option([0, 1, 2, 3, 4, 5], 4), limit=4) == Option([0, 3, 4, 5], 2)
    assert crop(Option([0, 1, 2, 3, 4, 5], 2), limit=3) == Option([0, 4, 5], 1)
    assert crop(Option([0, 1, 2], 2), limit=3) == Option([0, 1, 2], 2)


def test_a_question_longer_than_the_context_is_scored(random_model, tiny_tokenizer, tmp_path):
    bundle = write_bundle(tmp_path / "bundle", shots=0)
    for path in bundle.rglob("*.jsonl"):
        items = [json.loads(line) for line in path.read_text().splitlines()]
        for item in items:
            for key in ("query", "context"):
                if key in item:
                    item[key] = "word " * 500 + item[key]
        path.write_text("".join(json.dumps(item) + "\n" for item in items))
    record = evaluate_core(random_model, tiny_tokenizer, bundle, max_per_task=0, batch_rows=8)
    assert all(task["items"] == 8 for task in record["tasks"])


@pytest.mark.parametrize(
    "line",
    [
        '{"query": "torn',
        '{"query": "a", "choices": ["b"]}',
        '{"query": "a", "choices": ["b"], "gold": 1}',
        '{"query": 3, "choices": ["b"], "gold": 0}',
        "[]",
    ],
)
def test_a_damaged_line_is_named_in_one_sentence(bundle, line):
    task = load_tasks(bundle)[0]
    task.path.write_text(task.path.read_text() + line + "\n")
    with pytest.raises(DamagedArtefact, match=r"line 9 of .*multiple_choice\.jsonl is not a") as e:
        read_items(task)
    assert "\n" not in str(e.value)


def test_an_empty_task_file_is_damaged(bundle):
    task = load_tasks(bundle)[0]
    task.path.write_text("\n")
    with pytest.raises(DamagedArtefact, match="holds no questions"):
        read_items(task)


@pytest.mark.parametrize(
    "listing",
    ["icl_tasks: [", "tasks: []", "icl_tasks: [{label: a}]", "icl_tasks: 3", ""],
)
def test_a_damaged_listing_is_named_in_one_sentence(bundle, listing):
    (bundle / "core.yaml").write_text(listing)
    with pytest.raises(DamagedArtefact, match=r"cannot read .*core\.yaml") as caught:
        load_tasks(bundle)
    assert "\n" not in str(caught.value)


def test_a_task_without_a_chance_level_is_an_error(bundle):
    (bundle / "eval_meta_data.csv").write_text("Eval Task,Random baseline\n")
    with pytest.raises(DamagedArtefact, match="animals_multiple_choice"):
        load_tasks(bundle)


def test_no_bundle_and_no_data_say_what_to_do(random_model, tiny_tokenizer, tmp_path):
    with pytest.raises(MissingArtefact, match=r"core\.yaml: make or download"):
        load_tasks(tmp_path)
    bundle = write_bundle(tmp_path / "bundle", absent=tuple(CHANCES))
    with pytest.raises(MissingArtefact, match="no data of any task"):
        evaluate_core(random_model, tiny_tokenizer, bundle, max_per_task=0, batch_rows=8)


def test_the_published_bundle_is_read_and_scored(random_model, tiny_tokenizer, shared_data):
    bundle = shared_data / "eval_bundle"
    record = evaluate_core(random_model, tiny_tokenizer, bundle, max_per_task=3, batch_rows=8)
    chances = {task["label"]: task["chance"] for task in record["tasks"]}
    assert len(record["tasks"]) + len(record["missing"]) == 22
    assert len(record["tasks"]) == 9
    assert (chances["arc_easy"], chances["boolq"], chances["winograd"]) == (0.25, 0.62, 0.5)
