"""What every benchmark needs: the machine it ran on, medians with their spread, the matmul peak.

    from common import machine, matmul_peak, measure, publish

`publish` prints the results as JSON and, given `--output FILE` on the command line, writes them.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nanochat.files import write_json

PEAK_SIZE = 2048
PEAK_REPEATS = 10


def machine() -> dict[str, Any]:
    """Processor, cores, memory, accelerator and versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def measure(function: Callable[[], object], repeats: int = 5) -> dict[str, float]:
    """Seconds of `function`, called once to warm up and then `repeats` times."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return {
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "max_s": max(seconds),
    }


def matmul_peak(dtype: torch.dtype, device: str = "cpu") -> float:
    """FLOP/s of the best of several 2048^3 matrix products: what a model can be compared with."""
    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE, device=device, dtype=dtype) for _ in range(2))

    def multiply() -> None:
        a @ b
        if device != "cpu":
            torch.cuda.synchronize()

    return 2 * PEAK_SIZE**3 / measure(multiply, PEAK_REPEATS)["min_s"]


def rate(amount: float, timing: dict[str, float]) -> dict[str, float]:
    """Amount per second: of the median time, with the slowest and the fastest repeat."""
    return {
        "median": amount / timing["median_s"],
        "slowest": amount / timing["max_s"],
        "fastest": amount / timing["min_s"],
    }


def publish(name: str, results: dict[str, Any]) -> None:
    """Prints {"benchmark", "machine", "results"} as JSON; `--output FILE` writes it as well."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--output", type=Path)
    output = parser.parse_known_args()[0].output
    report = {"benchmark": name, "machine": machine(), "results": results}
    json.dump(report, sys.stdout, indent=2)
    print()
    if output:
        write_json(output, report)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
