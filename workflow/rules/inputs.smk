# What rules about conversations and tasks read: as many things as the mixtures name.


def own_content(path):
    """What a user's own file holds; nothing of a downloaded one, whose record says that."""
    return None if CORPUS.kind == "download" else content_fingerprint(path)


def tables_input(names, split):
    """Downloaded tables, each with the record that says what is in it."""
    files = [DISK.table(name, split) for name in names if name in TABLES]
    return {
        "tables": ancient(files),
        "table_records": [DISK.record_of(file) for file in files],
    }


def generated_input(names, split):
    """Generated tasks, each with what says that they are whole."""
    made = [name for name in names if name in GENERATED]
    identity = IDENTITY in names and not OWN_IDENTITY
    file = "train.jsonl" if split == "train" else "test.parquet"
    return {
        "questions": ancient([DISK.task(name, split) for name in made]),
        "tasks": [DISK.task_manifest] if made else [],
        "identity": ancient([DISK.identity / file] if identity else []),
        "identity_record": [DISK.identity_record] if identity else [],
    }


def mixture_input(wildcards):
    """Every conversation that a stage is trained on."""
    items = CONFIG.chat_stage(wildcards.stage).items
    names = [name for name in items if items[name]]
    own = OWN_IDENTITY if IDENTITY in names else []
    return {
        **tokenizer_input(),
        **generated_input(names, "train"),
        **tables_input(names, "train"),
        "conversations": ancient([*own, *CONVERSATIONS]),
    }


def task_shards():
    """The shards that the generated tasks are made from: only documentation asks for the held-out
    one, and a downloaded list of words replaces the others."""
    words = CONFIG.chat.words == "corpus" and any(name in WORD_TASKS for name in TASKS)
    documentation = "documentation" in TASKS
    shards = TRAIN_SHARDS[:TASK_SHARDS] if words or documentation else ()
    return [*shards, *([VALIDATION_SHARD] if documentation else [])]


def chat_stage_input(stage):
    """What a training on conversations reads: the model before it, its rows, and the held-out
    rows that every stage's bits per byte are measured on."""
    rows = DISK.chat_rows(stage)
    return {
        **tokenizer_input(),
        **model_input(STAGE_BEFORE[stage]),
        "rows": ancient([rows, rows.with_suffix(".mask.npy")]),
        "rows_record": rows.with_suffix(".json"),
        "validation": ancient(DISK.rows(VALIDATION_SHARD)),
        "validation_record": DISK.rows_record(VALIDATION_SHARD),
    }
