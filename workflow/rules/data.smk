# From text to packed rows of token ids, and everything that is made from text for later stages.

if CORPUS.kind == "embedded":

    rule embedded_corpus:
        output:
            shards=CORPUS.shards,
            records=CORPUS.records,
        log:
            DISK.logs / "embedded_corpus.log",
        conda:
            "../envs/nanochat.yaml"
        threads: threads_of(cpu_job())
        resources:
            **cpu_job(),
        params:
            determined_by=determined_by("corpus"),
        shell:
            "nanochat data embedded 2>&1 | tee -i {log:q}"

elif CORPUS.kind == "text":

    rule import_corpus:
        input:
            ancient(CORPUS.inputs),
        output:
            shards=CORPUS.shards,
            records=CORPUS.records,
        log:
            DISK.logs / "import_corpus.log",
        conda:
            "../envs/nanochat.yaml"
        resources:
            **cpu_job(),
        params:
            determined_by=determined_by("corpus"),
            content=[content_fingerprint(path) for path in CORPUS.inputs],
        shell:
            "nanochat data import 2>&1 | tee -i {log:q}"

elif CORPUS.kind == "shards":

    rule record_shard:
        input:
            lambda wildcards: ancient(CORPUS.parquet(wildcards.shard)),
        output:
            record=DISK.shard_record("{shard}"),
        log:
            DISK.logs / "record_shard" / "{shard}.log",
        conda:
            "../envs/nanochat.yaml"
        resources:
            **cpu_job(),
        params:
            content=lambda wildcards: content_fingerprint(
                CORPUS.parquet(wildcards.shard)
            ),
        shell:
            "nanochat data record --shard {wildcards.shard} 2>&1 | tee -i {log:q}"


rule train_tokenizer:
    input:
        shards=[ancient(CORPUS.parquet(shard)) for shard in TRAIN_SHARDS],
        records=CORPUS.records[:-1],
    output:
        merges=DISK.tokenizer / "merges.tiktoken",
        tokenizer=DISK.tokenizer_file,
    log:
        DISK.logs / "train_tokenizer.log",
    conda:
        "../envs/nanochat.yaml"
    threads: threads_of(cpu_job())
    resources:
        **cpu_job(),
    params:
        determined_by=determined_by("train_tokenizer"),
    shell:
        "nanochat tokenizer train 2>&1 | tee -i {log:q}"


rule eval_tokenizer:
    input:
        tokenizer=DISK.tokenizer_file,
        validation=ancient(CORPUS.parquet(VALIDATION_SHARD)),
        record=CORPUS.record(VALIDATION_SHARD),
    output:
        DISK.compression,
    log:
        DISK.logs / "eval_tokenizer.log",
    conda:
        "../envs/nanochat.yaml"
    resources:
        **cpu_job(),
    shell:
        "nanochat tokenizer eval 2>&1 | tee -i {log:q}"


rule tokenize_shard:
    input:
        shard=lambda wildcards: ancient(CORPUS.parquet(wildcards.shard)),
        record=lambda wildcards: CORPUS.record(wildcards.shard),
        tokenizer=DISK.tokenizer_file,
    output:
        rows=DISK.rows("{shard}"),
        record=DISK.rows_record("{shard}"),
    log:
        DISK.logs / "tokenize_shard" / "{shard}.log",
    conda:
        "../envs/nanochat.yaml"
    resources:
        **cpu_job(),
    shell:
        "nanochat data tokenize --shard {wildcards.shard} 2>&1 | tee -i {log:q}"


rule generate_tasks:
    input:
        shards=[ancient(CORPUS.parquet(shard)) for shard in ALL_SHARDS],
        records=CORPUS.records,
    output:
        questions=[*ITEMS["train"], *ITEMS["test"]],
        manifest=DISK.task_manifest,
    log:
        DISK.logs / "generate_tasks.log",
    conda:
        "../envs/nanochat.yaml"
    resources:
        **cpu_job(),
    params:
        determined_by=determined_by("generate_tasks"),
    shell:
        "nanochat data tasks 2>&1 | tee -i {log:q}"


rule chat_rows:
    input:
        questions=ancient(ITEMS["train"]),
        tasks=DISK.task_manifest,
        tokenizer=DISK.tokenizer_file,
        conversations=ancient(CONVERSATIONS),
    output:
        rows=DISK.chat_rows("{stage}"),
        mask=DISK.chat_rows("{stage}").with_suffix(".mask.npy"),
        record=DISK.chat_rows("{stage}").with_suffix(".json"),
    log:
        DISK.logs / "chat_rows" / "{stage}.log",
    conda:
        "../envs/nanochat.yaml"
    resources:
        **cpu_job(),
    params:
        determined_by=lambda wildcards: determined_by(f"{wildcards.stage}_rows"),
        content=[content_fingerprint(path) for path in CONVERSATIONS],
    shell:
        "nanochat data chat-rows {wildcards.stage} 2>&1 | tee -i {log:q}"


rule eval_bundle:
    input:
        validation=ancient(CORPUS.parquet(VALIDATION_SHARD)),
        record=CORPUS.record(VALIDATION_SHARD),
    output:
        DISK.eval_bundle / "core.yaml",
        DISK.eval_bundle / "eval_meta_data.csv",
        questions=directory(DISK.eval_bundle / "eval_data"),
    log:
        DISK.logs / "eval_bundle.log",
    conda:
        "../envs/nanochat.yaml"
    resources:
        **cpu_job(),
    params:
        determined_by=determined_by("eval_bundle"),
    shell:
        "nanochat data bundle 2>&1 | tee -i {log:q}"
