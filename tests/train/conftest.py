"""What the tests of training share: rows to train on, and tiny_training.py as a module."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def row_file(tmp_path: Path) -> Path:
    from tiny_training import write_row_file

    return write_row_file(tmp_path)
