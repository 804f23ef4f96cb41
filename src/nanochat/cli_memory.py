"""`nanochat memory`: what training takes of each rank's memory, and how many rows at a time fit.

    nanochat memory --ranks 8 --gpu-memory 80

A command's module is imported when the command runs.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanochat.cli_options import DEFAULT_CONFIG, ConfigFile, read_config
from nanochat.config import STAGES, Config

if TYPE_CHECKING:
    from nanochat.model.gpt_config import GPTConfig
    from nanochat.model.memory import MemoryPlan

GIB = 2**30
ROWS = (64, 32, 16, 8, 4, 2, 1)
PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer, of a rank",
    "copies": "copies for a pass",
    "activations_per_row": "activations, per row",
    "loss": "loss",
    "update": "update, when the pass is over",
    "save_copy": "copy for saving, on the host",
}


def memory_command(
    config: ConfigFile = DEFAULT_CONFIG,
    ranks: Annotated[
        int, typer.Option(help="Processes that train together, a device each.", min=1)
    ] = 1,
    gpu_memory: Annotated[
        float | None,
        typer.Option(
            help="Memory of a GPU in GiB (2^30 bytes): 80 for one that is sold with 80 GB. "
            "Default: of the device of this machine.",
            min=0.1,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; sizes in bytes.")] = False,
) -> None:
    """Say what training takes of each rank's memory, and how many rows at a time fit. It is a plan:
    nothing is tried. Training that runs out of memory goes on with half as many rows at a time."""
    import json

    found = _findings(read_config(config), ranks, gpu_memory)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)


def _findings(config: Config, ranks: int, gpu_memory: float | None) -> dict[str, Any]:
    from dataclasses import asdict

    from nanochat.model.gpt_config import shape_of
    from nanochat.model.memory import memory_plan, usable

    shape = shape_of(config)
    device = _local_device(config, ranks) if gpu_memory is None else _given_gpu(config, gpu_memory)
    plan = memory_plan(
        shape,
        ranks,
        device["dtype_bytes"],
        device["device_type"],
        device["compiled"],
        config.operation.shard == "weights",
    )
    limit = usable(device["memory"])
    return {
        "ranks": ranks,
        **device,
        "usable": limit,
        "plan": asdict(plan),
        "totals": {rows: plan.total(rows) for rows in ROWS},
        "fits": {rows: plan.total(rows) <= limit for rows in ROWS},
        "stages": _stages(config, shape, plan, limit),
    }


def _local_device(config: Config, ranks: int) -> dict[str, Any]:
    """What this machine trains on; ranks on a processor share its memory."""
    from nanochat.model.device import can_compile, compute_dtype, default_device
    from nanochat.model.hardware import device_name
    from nanochat.model.memory import available_bytes

    device, mode = default_device(), config.operation.compile
    name = device_name(device) or "this machine's processor"
    return {
        "device": name,
        "device_type": device.type,
        "memory": available_bytes(device, sharing=ranks),
        "dtype_bytes": compute_dtype(device).itemsize,
        "compiled": mode == "on" or (mode == "auto" and can_compile(device)),
    }


def _given_gpu(config: Config, gib: float) -> dict[str, Any]:
    """A GPU that this machine need not have: from Ampere on, so that it computes in bfloat16."""
    return {
        "device": f"a GPU of {gib:g} GiB",
        "device_type": "cuda",
        "memory": int(gib * GIB),
        "dtype_bytes": 4 if os.environ.get("NANOCHAT_DTYPE") == "float32" else 2,
        "compiled": config.operation.compile != "off",
    }


def _stages(
    config: Config, shape: "GPTConfig", plan: "MemoryPlan", limit: int
) -> dict[str, dict[str, int]]:
    """For each stage the rows that a rank has in a step, and how many it can take at a time."""
    from nanochat.model.scaling import plan as training_plan

    base, found = config.base, {}
    for stage in STAGES:
        if stage == "base":
            tokens = training_plan(
                shape, base.tokens_per_parameter, base.steps, base.total_batch_tokens
            ).total_batch_tokens
        else:
            tokens = config.chat_stage(stage).total_batch_tokens
        of_a_rank = -(-(tokens // shape.sequence_len) // plan.world_size)
        asked = min(config.operation.device_rows, of_a_rank)
        fitting = plan.largest_rows(limit, asked)
        found[stage] = {"step_rows": of_a_rank, "asked_rows": asked, "fitting_rows": fitting}
    return found


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    # In a pipe nothing is wrapped: a line is a line.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 400)
    console.print(Text(_heading(found)), soft_wrap=True)
    parts = [(name, _gib(found["plan"][key])) for key, name in PARTS.items()]
    _print_table(console, ("", "GiB"), parts)
    limit = _gib(found["usable"])
    totals = [
        (f"{rows}", _gib(total), "yes" if found["fits"][rows] else "no")
        for rows, total in found["totals"].items()
    ]
    _print_table(console, ("rows at a time", "GiB", f"fits {limit}"), totals)
    for stage, rows in found["stages"].items():
        console.print(f"{stage}: {_advice(rows)}", soft_wrap=True)
    if found["device_type"] == "cpu":
        console.print("for a GPU, give --gpu-memory and --ranks", soft_wrap=True)


def _heading(found: dict[str, Any]) -> str:
    ranks = "1 rank" if found["ranks"] == 1 else f"each of {found['ranks']} ranks"
    dtype = "bfloat16" if found["dtype_bytes"] == 2 else "float32"
    way = "compiled" if found["compiled"] else "eager"
    memory = f"{_gib(found['memory'])} GiB, of which {_gib(found['usable'])} are planned with"
    return f"{ranks} on {found['device']}, {dtype}, {way}: {memory}"


def _advice(rows: dict[str, int]) -> str:
    asked, fitting, of_a_rank = rows["asked_rows"], rows["fitting_rows"], rows["step_rows"]
    share = f"a rank has {of_a_rank} rows in a step"
    if not fitting:
        return f"{share}; not even one at a time fits: lower model.depth, or take more memory"
    if fitting < asked:
        return f"{share}; {fitting} at a time fit, not the {asked} of operation.device_rows"
    return f"{share}; {asked} at a time fit"


def _print_table(console: Any, columns: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    console.print(table)


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"
