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

else:

    rule record_shard:
        input:
            lambda wildcards: ancient(CORPUS.parquet(wildcards.shard)),
        output:
            record=DISK.shard_record("{shard}"),
        log:
            DISK.logs / "record_shard" / "{shard}.log",
        localrule: CORPUS.kind == "download"
        conda:
            "../envs/nanochat.yaml"
        resources:
            **cpu_job(),
        params:
            content=lambda wildcards: own_content(CORPUS.parquet(wildcards.shard)),
        shell:
            "nanochat data record --shard {wildcards.shard} 2>&1 | tee -i {log:q}"


rule train_tokenizer:
    input:
        shards=ancient(CORPUS.shards[: DISK.tokenizer_shards]),
        records=CORPUS.records[: DISK.tokenizer_shards],
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
        **tokenizer_input(),
        texts=ancient([CORPUS.shards[0], CORPUS.shards[-1]]),
        records=[CORPUS.records[0], CORPUS.records[-1]],
        vocabularies=ancient(COMPARED),
        vocabulary_records=[DISK.record_of(file) for file in COMPARED],
    output:
        DISK.compression,
    log:
        DISK.logs / "eval_tokenizer.log",
    conda:
        "../envs/nanochat.yaml"
    resources:
        **cpu_job(),
    params:
        determined_by=determined_by("eval_tokenizer"),
    shell:
        "nanochat tokenizer eval 2>&1 | tee -i {log:q}"


rule tokenize_shard:
    input:
        **tokenizer_input(),
        shard=lambda wildcards: ancient(CORPUS.parquet(wildcards.shard)),
        record=lambda wildcards: CORPUS.record(wildcards.shard),
    output:
        rows=DISK.rows("{shard}"),
        record=DISK.rows_record("{shard}"),
    log:
        DISK.logs / "tokenize_shard" / "{shard}.log",
    conda:
        "../envs/nanochat.yaml"
    threads: threads_of(cpu_job()) if SITE else 1
    resources:
        **cpu_job(),
    shell:
        "nanochat data tokenize --shard {wildcards.shard} --threads {threads} 2>&1 | tee -i {log:q}"


rule generate_tasks:
    input:
        shards=ancient([CORPUS.parquet(shard) for shard in task_shards()]),
        records=[CORPUS.record(shard) for shard in task_shards()],
        words=ancient(WORDS),
        words_record=[DISK.record_of(file) for file in WORDS],
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


rule identity_conversations:
    output:
        trained=DISK.identity / "train.jsonl",
        held_out=DISK.identity / "test.parquet",
        record=DISK.identity_record,
    log:
        DISK.logs / "identity_conversations.log",
    localrule: True
    conda:
        "../envs/nanochat.yaml"
    params:
        determined_by=determined_by("identity_conversations"),
    shell:
        "nanochat data identity 2>&1 | tee -i {log:q}"


rule chat_rows:
    input:
        unpack(mixture_input),
    output:
        rows=DISK.chat_rows("{stage}"),
        mask=DISK.chat_rows("{stage}").with_suffix(".mask.npy"),
        record=DISK.chat_rows("{stage}").with_suffix(".json"),
    log:
        DISK.logs / "chat_rows" / "{stage}.log",
    conda:
        "../envs/nanochat.yaml"
    threads: threads_of(cpu_job()) if SITE else 1
    resources:
        **cpu_job(),
    params:
        determined_by=lambda wildcards: determined_by(f"{wildcards.stage}_rows"),
        content=[content_fingerprint(path) for path in [*OWN_IDENTITY, *CONVERSATIONS]],
    shell:
        "nanochat data chat-rows {wildcards.stage} --threads {threads} 2>&1 | tee -i {log:q}"


if CONFIG.evaluation.bundle == "generated":

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
