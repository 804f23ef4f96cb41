"""What each job asks SLURM for, in the words of Snakemake's SLURM executor.

    training_resources(site, flops, peak_flops)   # all GPUs, one rank each
    evaluation_resources(site, flops, peak_flops) # one GPU
    cpu_resources(site)

Pure arithmetic on the site's facts. Walltimes are planned: floating-point operations over what the
GPUs reach (their peak times the site's MFU), doubled, plus what starting takes, at most what the
partition allows. A training that needs more than that is continued in a further job.
"""

import math

from nanochat.errors import ConfigError
from nanochat.hpc.site import Site

SAFETY = 2.0  # over the plan: validation, saving, a slower node
START_MINUTES = 30  # imports, compilation, the first batch from a cold file system
EVALUATION_MFU_SHARE = 0.1  # small batches and token-by-token answers, against training
CPU_HOURS = 4.0  # tokenizer, shards, tasks: minutes each; long enough for a slow file system

Resources = dict[str, int | str]


def planned_minutes(flops: float, gpus: int, peak_flops: float, mfu: float, limit: float) -> int:
    """Walltime in minutes: `flops` on `gpus` of `peak_flops` each; at most `limit` hours."""
    seconds = SAFETY * flops / (gpus * peak_flops * mfu)
    return min(math.ceil(START_MINUTES + seconds / 60), math.floor(limit * 60))


def training_resources(site: Site, flops: float, peak_flops: float) -> Resources:
    """Every GPU of the site's nodes, with one task on each where there are several.

    Several tasks are started by the rule's own `srun` (the executor's resource `mpi`), one alone
    by the executor's.
    """
    gpu = site.gpu
    cpus_per_rank = max(1, gpu.cpus // gpu.per_node)
    minutes = planned_minutes(flops, gpu.ranks, peak_flops, gpu.mfu, gpu.max_hours)
    if gpu.ranks == 1:
        return {**_one_gpu(site, minutes, gpu.memory_gb), "cpus_per_task": gpu.cpus}
    job = _gpu_job(site, minutes, gpu.memory_gb)
    model = f"{gpu.model}:" if gpu.model else ""
    per_node = {"tasks_per_node": gpu.per_node} if gpu.per_node > 1 else {"tasks": gpu.ranks}
    launcher = (
        f"srun --nodes={gpu.nodes} --ntasks={gpu.ranks} --ntasks-per-node={gpu.per_node} "
        f"--cpus-per-task={cpus_per_rank} --kill-on-bad-exit=1"
    )
    return {
        **job,
        **per_node,
        "nodes": gpu.nodes,
        "cpus_per_task": cpus_per_rank,
        # The executor's own resource `gpu` is a total, which SLURM may spread unevenly.
        "slurm_extra": f"{job['slurm_extra']} --gpus-per-node={model}{gpu.per_node}",
        "mpi": launcher,
    }


def evaluation_resources(site: Site, flops: float, peak_flops: float) -> Resources:
    """One GPU, and its share of a node's cores and memory."""
    gpu = site.gpu
    mfu = gpu.mfu * EVALUATION_MFU_SHARE
    minutes = planned_minutes(flops, 1, peak_flops, mfu, gpu.max_hours)
    memory_gb = max(1, gpu.memory_gb // gpu.per_node)
    cpus = max(1, gpu.cpus // gpu.per_node)
    return {**_one_gpu(site, minutes, memory_gb), "cpus_per_task": cpus}


def cpu_resources(site: Site) -> Resources:
    """A job without a GPU."""
    cpu = site.cpu
    return {
        **_account(site),
        **({"slurm_partition": cpu.partition} if cpu.partition else {}),
        "nodes": 1,
        "cpus_per_task": cpu.cpus,
        "mem_mb": cpu.memory_gb * 1000,
        "runtime": math.floor(min(CPU_HOURS, cpu.max_hours) * 60),
        "slurm_extra": "--open-mode=append",
    }


def gpu_peak_flops(site: Site, table_entry: float | None) -> float:
    """The peak of one of the site's GPUs, in FLOP/s: as given, else as looked up by its model."""
    if site.gpu.peak_tflops is not None:
        return site.gpu.peak_tflops * 1e12
    if table_entry is None:
        raise ConfigError(
            f"nobody knows the peak of the GPU {site.gpu.model!r}, which walltimes are planned "
            "with: give site.gpu.peak_tflops in the profile's site.yaml, in TFLOP/s of bf16"
        )
    return table_entry


def _one_gpu(site: Site, minutes: int, memory_gb: int) -> Resources:
    model: Resources = {"gpu_model": site.gpu.model} if site.gpu.model else {}
    return {**_gpu_job(site, minutes, memory_gb), **model, "gpu": 1, "nodes": 1}


def _gpu_job(site: Site, minutes: int, memory_gb: int) -> Resources:
    """What all jobs with GPUs ask for, but for the GPUs."""
    extra = "--open-mode=append"  # a requeued job goes on in the same log
    if site.email:
        extra += f" --mail-type=BEGIN,END,FAIL --mail-user={site.email}"
    return {
        **_account(site),
        "slurm_partition": site.gpu.partition,
        "mem_mb": memory_gb * 1000,
        "runtime": minutes,
        "slurm_extra": extra,
    }


def _account(site: Site) -> Resources:
    return {"slurm_account": site.account} if site.account else {}
