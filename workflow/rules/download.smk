# What comes from the internet: fetched here, where Snakemake runs, before any job that needs it.
# `retries: 0`: those of a profile are for trainings, and a download retries by itself.
# `priority`: they go before everything that could already start.
# `connections`: at most so many at once; a profile says how many.

if CORPUS.kind == "download":

    rule download_shard:
        output:
            DISK.downloaded_shard("{shard}"),
        log:
            DISK.logs / "download_shard" / "{shard}.log",
        priority: 100
        retries: 0
        localrule: True
        conda:
            "../envs/nanochat.yaml"
        resources:
            connections=1,
        params:
            name=DISK.dataset,
        shell:
            "nanochat data download {params.name} --part {wildcards.shard} 2>&1 | tee -i {log:q}"


rule download_task:
    output:
        table=DISK.table("{task}", "{split}"),
        record=DISK.record_of(DISK.table("{task}", "{split}")),
    log:
        DISK.logs / "download_task" / "{task}-{split}.log",
    wildcard_constraints:
        task="|".join(TABLES),
        split="train|test",
    priority: 100
    retries: 0
    localrule: True
    conda:
        "../envs/nanochat.yaml"
    resources:
        connections=1,
    shell:
        "nanochat data download {wildcards.task} --part {wildcards.split} 2>&1 | tee -i {log:q}"


rule download_file:
    output:
        file=DISK.plain_file("{name}", "{file}"),
        record=DISK.record_of(DISK.plain_file("{name}", "{file}")),
    log:
        DISK.logs / "download_file" / "{name}-{file}.log",
    wildcard_constraints:
        name="|".join(PLAIN_FILES),
        file="|".join(re.escape(file.file) for file in PLAIN_FILES.values()),
    priority: 100
    retries: 0
    localrule: True
    conda:
        "../envs/nanochat.yaml"
    resources:
        connections=1,
    shell:
        "nanochat data download {wildcards.name} 2>&1 | tee -i {log:q}"


rule download_eval_bundle:
    output:
        DISK.archive(CORE_BUNDLE.name) / "core.yaml",
        DISK.archive(CORE_BUNDLE.name) / "eval_meta_data.csv",
        questions=directory(DISK.archive(CORE_BUNDLE.name) / "eval_data"),
        record=DISK.record_of(DISK.archive(CORE_BUNDLE.name)),
    log:
        DISK.logs / "download_eval_bundle.log",
    priority: 100
    retries: 0
    localrule: True
    conda:
        "../envs/nanochat.yaml"
    resources:
        connections=1,
    params:
        name=CORE_BUNDLE.name,
    shell:
        "nanochat data download {params.name} 2>&1 | tee -i {log:q}"


rule downloads:
    input:
        files=ancient([external.output for external in EXTERNALS]),
        records=[external.record for external in EXTERNALS],
    output:
        DISK.manifest,
    log:
        DISK.logs / "downloads.log",
    priority: 100
    retries: 0
    localrule: True
    conda:
        "../envs/nanochat.yaml"
    shell:
        "nanochat data downloads 2>&1 | tee -i {log:q}"
