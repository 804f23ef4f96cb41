"""`python -m nanochat`: the same as the `nanochat` command."""

from nanochat.cli import main

main()
