"""The data sets of text that can be downloaded: where each lies, and which shard is held out.

    CORPORA["climbmix-400b-shuffle"].numbers(train_shards=154)     # [0, ..., 153, 6542]

A further data set is one more entry. Reads and writes nothing, and imports nothing heavy: Snakemake
asks each time it parses the workflow.
"""

from dataclasses import dataclass

from nanochat.errors import ConfigError


@dataclass(frozen=True)
class HubCorpus:
    """A data set on the Hugging Face hub, cut into numbered parquet files with a column `text`."""

    repo: str
    """Its repository there."""
    shards: int
    """Number of its files, which are numbered from 0."""
    validation: int | None = None
    """Number of the file that is held out; None: the last one."""
    revision: str = "main"
    """Branch, tag or commit."""
    pattern: str = "shard_{:05d}.parquet"
    """A file's name, from its number."""

    def numbers(self, train_shards: int) -> list[int]:
        """The files of a training: the first `train_shards` ones, and last the held-out one.

        Raises ConfigError where there are not as many.
        """
        if train_shards >= self.shards:
            raise ConfigError(
                f"data.train_shards is {train_shards}, but {self.repo} has {self.shards} shards "
                f"and one of them is held out: give at most {self.shards - 1}"
            )
        held_out = self.shards - 1 if self.validation is None else self.validation
        train = (number for number in range(self.shards) if number != held_out)
        return [*(next(train) for _ in range(train_shards)), held_out]


CORPORA = {
    # NVIDIA's ClimbMix, shuffled; the best text for the CORE tasks at these sizes.
    "climbmix-400b-shuffle": HubCorpus("karpathy/climbmix-400b-shuffle", 6543, validation=6542),
    # FineWeb-EDU, 100 billion tokens, shuffled; what nanochat of October 2025 was trained on.
    "fineweb-edu-100b-shuffle": HubCorpus("karpathy/fineweb-edu-100b-shuffle", 1823),
}
"""`data.source` -> data set."""
