# The three trainings. Checkpoints are no outputs: a failed job keeps them and resumes from them.


rule base_train:
    input:
        **tokenizer_input(),
        rows=[ancient(DISK.rows(shard)) for shard in ALL_SHARDS],
        records=[DISK.rows_record(shard) for shard in ALL_SHARDS],
    output:
        model=DISK.stage("base") / "model.safetensors",
        config=DISK.stage("base") / "config.json",
        record=DISK.stage("base") / "record.json",
    log:
        DISK.logs / "base_train.log",
    conda:
        "../envs/nanochat.yaml"
    threads: threads_of(training_job("base"))
    resources:
        **training_job("base"),
    params:
        determined_by=determined_by("base_train"),
        launcher=launcher,
    shell:
        "{params.launcher} nanochat train base 2>&1 | tee -i {log:q}"


rule mid_train:
    input:
        **chat_stage_input("mid"),
    output:
        model=DISK.stage("mid") / "model.safetensors",
        config=DISK.stage("mid") / "config.json",
        record=DISK.stage("mid") / "record.json",
    log:
        DISK.logs / "mid_train.log",
    conda:
        "../envs/nanochat.yaml"
    threads: threads_of(training_job("mid"))
    resources:
        **training_job("mid"),
    params:
        determined_by=determined_by("mid_train"),
        launcher=launcher,
    shell:
        "{params.launcher} nanochat train mid 2>&1 | tee -i {log:q}"


rule chat_sft:
    input:
        **chat_stage_input("sft"),
    output:
        model=DISK.stage("sft") / "model.safetensors",
        config=DISK.stage("sft") / "config.json",
        record=DISK.stage("sft") / "record.json",
    log:
        DISK.logs / "chat_sft.log",
    conda:
        "../envs/nanochat.yaml"
    threads: threads_of(training_job("sft"))
    resources:
        **training_job("sft"),
    params:
        determined_by=determined_by("chat_sft"),
        launcher=launcher,
    shell:
        "{params.launcher} nanochat train sft 2>&1 | tee -i {log:q}"
