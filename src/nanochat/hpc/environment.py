"""Environment variables of a site: every cache below scratch, and no network in jobs.

    load_env_local(Path.cwd(), os.environ)
    os.environ.update(variables(site, os.environ))

`make env`, Snakemake and every job take them from here. Reads `.env.local`; writes nothing.
"""

import difflib
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from nanochat.errors import ConfigError
from nanochat.hpc.site import OVERRIDES, Site

ENV_LOCAL = ".env.local"
KNOWN = (
    *OVERRIDES,
    *("NANOCHAT_BASE_DIR", "NANOCHAT_DTYPE"),
    *("NANOCHAT_MIRROR", "NANOCHAT_DOWNLOAD_BACKOFF"),
)
"""Variables of this project that a person may set."""
CACHES = {
    "HF_HOME": "huggingface",
    "TORCH_HOME": "torch",
    "UV_CACHE_DIR": "uv",
    "PIP_CACHE_DIR": "pip",
    "WANDB_DIR": "wandb",
    "WANDB_CACHE_DIR": "wandb/cache",
    "WANDB_CONFIG_DIR": "wandb/config",
    "WANDB_DATA_DIR": "wandb/data",
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "CUDA_CACHE_PATH": "cuda",
    "CARGO_HOME": "cargo",
    "RUSTUP_HOME": "rustup",
    "MPLCONFIGDIR": "matplotlib",
    "XDG_CACHE_HOME": "xdg",
}
"""Variable -> folder below `<scratch>/nanochat/cache`: what else would grow in the home folder."""
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "WANDB_MODE": "offline",
}
"""For jobs, whose nodes have no internet: libraries must not wait for one."""


def load_env_local(folder: Path, environment: MutableMapping[str, str]) -> None:
    """Adds what `.env.local` in `folder` sets; what is set already wins.

    Raises ConfigError for a line that sets nothing, and for a NANOCHAT_ variable nobody reads.
    """
    file = folder / ENV_LOCAL
    if not file.is_file():
        return
    with open(file, encoding="utf-8", errors="replace") as stream:
        for binding in parse_stream(stream):
            if binding.error:
                line, text = binding.original.line, binding.original.string.strip()
                raise ConfigError(f"{ENV_LOCAL}, line {line}: {text!r} is not NAME=value")
    for name, value in dotenv_values(file).items():
        if name.startswith("NANOCHAT_") and name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(KNOWN)}"
            raise ConfigError(f"{ENV_LOCAL} sets {name}, which nobody reads: {hint}")
        if value:
            environment.setdefault(name, value)


def variables(site: Site, environment: Mapping[str, str]) -> dict[str, str]:
    """The base folder, the shared one and every cache, for this site; a base folder that is set
    already stays."""
    folder = site.folder(environment)
    base_dir = environment.get("NANOCHAT_BASE_DIR") or str(folder)
    caches = {name: str(folder / "cache" / part) for name, part in CACHES.items()}
    shared = {"NANOCHAT_SHARED_DIR": site.shared_dir} if site.shared_dir else {}
    return {"NANOCHAT_BASE_DIR": base_dir, **shared, **caches}
