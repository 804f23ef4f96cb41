# What the models are worth, and the page that says so.


rule base_eval:
    input:
        **tokenizer_input(),
        **model_input("base"),
        rows=ancient(DISK.rows(VALIDATION_SHARD)),
        rows_record=DISK.rows_record(VALIDATION_SHARD),
        validation=ancient(CORPUS.parquet(VALIDATION_SHARD)),
        bundle=[DISK.eval_bundle / "core.yaml", DISK.eval_bundle / "eval_meta_data.csv"],
        bundle_questions=ancient(DISK.eval_bundle / "eval_data"),
        bundle_record=BUNDLE_RECORD,
    output:
        DISK.evaluation("base"),
    log:
        DISK.logs / "base_eval.log",
    conda:
        "../envs/nanochat.yaml"
    threads: threads_of(evaluation_job("base"))
    resources:
        **evaluation_job("base"),
    params:
        determined_by=determined_by("base_eval"),
    shell:
        "nanochat eval base 2>&1 | tee -i {log:q}"


rule chat_eval:
    input:
        **generated_input(CONFIG.scored_tasks, "test"),
        **tables_input(CONFIG.scored_tasks, "test"),
        **tokenizer_input(),
        **model_input("{stage}"),
    output:
        DISK.evaluation("{stage}"),
    log:
        DISK.logs / "chat_eval" / "{stage}.log",
    conda:
        "../envs/nanochat.yaml"
    threads: threads_of(evaluation_job("sft"))
    resources:
        **evaluation_job("sft"),
    params:
        determined_by=determined_by("chat_eval"),
    shell:
        "nanochat eval chat {wildcards.stage} 2>&1 | tee -i {log:q}"


rule report:
    input:
        shards=CORPUS.records,
        compression=DISK.compression,
        trainings=[DISK.stage(stage) / "record.json" for stage in STAGES],
        evaluations=[DISK.evaluation(stage) for stage in STAGES],
    output:
        DISK.report,
    log:
        DISK.logs / "report.log",
    retries: 0
    localrule: True
    conda:
        "../envs/nanochat.yaml"
    shell:
        "nanochat report 2>&1 | tee -i {log:q}"
