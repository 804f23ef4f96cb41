"""What Snakemake looks for under `executor: slurm-resume`; the code is nanochat.hpc.executor."""

from snakemake_executor_plugin_slurm import ExecutorSettings, common_settings

from nanochat.hpc.executor import Executor

__all__ = ["Executor", "ExecutorSettings", "common_settings"]
