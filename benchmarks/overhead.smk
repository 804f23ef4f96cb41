# A chain of jobs that only sleep, in the real workflow: what they take beyond that is overhead.
# benchmarks/overhead.py runs it.


include: "../Snakefile"


SECONDS, LENGTH = 5, 8


rule end_of_chain:
    input:
        DISK.run / f"chain-{LENGTH}",


rule link:
    input:
        lambda wildcards: (
            DISK.run / f"chain-{int(wildcards.number) - 1}"
            if wildcards.number != "1"
            else []
        ),
    output:
        DISK.run / "chain-{number}",
    log:
        DISK.logs / "link" / "{number}.log",
    resources:
        **cpu_job(),
    params:
        seconds=SECONDS,
    shell:
        "sleep {params.seconds} 2>&1 | tee -i {log} && date > {output}"
