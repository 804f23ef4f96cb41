# What comes from the internet: fetched here, where Snakemake runs, before any job that needs it.
# `retries: 0`: those of a profile are for trainings, which go on from their checkpoints.

if CORPUS.kind == "download":

    rule download_shard:
        output:
            # A shard that was copied here by hand stays, and is only recorded.
            shard=update(DISK.downloaded_shard("{shard}")),
            record=DISK.downloaded_shard("{shard}").with_suffix(".json"),
        log:
            DISK.logs / "download_shard" / "{shard}.log",
        retries: 0
        localrule: True
        conda:
            "../envs/nanochat.yaml"
        shell:
            "nanochat data download --shard {wildcards.shard} 2>&1 | tee -i {log:q}"


rule downloads:
    input:
        shards=ancient(DOWNLOADS),
        records=[path.with_suffix(".json") for path in DOWNLOADS],
    output:
        DISK.downloads,
    log:
        DISK.logs / "downloads.log",
    retries: 0
    localrule: True
    conda:
        "../envs/nanochat.yaml"
    shell:
        "nanochat data downloads 2>&1 | tee -i {log:q}"
