# SPDX-License-Identifier: Apache-2.0
"""Loads the model once per run; the modules under test are siblings of this folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Two BLAS threads that wait for each other by spinning take ten times as long beside other work.
# Read when numpy is loaded first.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from model import Model, open_gguf

if TYPE_CHECKING:
    from gguf import GGUFReader

    from tokenizer import Tokenizer


@pytest.fixture(scope="session")
def reader() -> GGUFReader:
    return open_gguf()


@pytest.fixture(scope="session")
def model(reader: GGUFReader) -> Model:
    return Model.load(reader)


@pytest.fixture(scope="session")
def tokenizer(reader: GGUFReader) -> Tokenizer:
    from tokenizer import Tokenizer

    return Tokenizer.load(reader)
