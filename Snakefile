from snakemake.utils import min_version

min_version("9.27")


configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/download.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/hooks.smk"


rule all:
    default_target: True
    input:
        models=[DISK.stage(stage) / "model.safetensors" for stage in STAGES],
        report=DISK.report,
        downloads=DISK.manifest,
    localrule: True


onstart:
    start_workflow()


onsuccess:
    announce()


onerror:
    explain_failure()
