# SPDX-License-Identifier: Apache-2.0
"""The demo's prompt: real text out of this repository's own documents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "\n\nIn one paragraph: what is this project for?"


def documents() -> list[Path]:
    """The repository's documents, most telling first; the licence is there as a reserve."""
    first = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]
    docs = sorted((ROOT / "docs").rglob("*.md"))
    files = [*first, *docs, ROOT / "CHANGELOG.md", ROOT / "LICENSE"]
    return [file for file in files if file.is_file()]


def make_prompt(tokenizer: Tokenizer, num_tokens: int) -> list[int]:
    """Returns exactly num_tokens ids: a chat turn with as much of the documents as fits.

    The documents change with the repository, so a run makes its prompt once and keeps the ids.
    """
    before, after = (tokenizer.encode(part) for part in tokenizer.chat("\0" + QUESTION).split("\0"))
    room = num_tokens - len(before) - len(after)
    if room < 1:
        raise ValueError(
            f"--tokens is {num_tokens}, must be at least {len(before) + len(after) + 1}: "
            "that much the chat around the text takes"
        )
    text: list[int] = []
    for file in documents():
        text += tokenizer.encode(file.read_text(encoding="utf-8"))
        if len(text) >= room:
            return [*before, *text[:room], *after]
    raise ValueError(
        f"--tokens is {num_tokens}, the documents of the repository have only {len(text)} tokens"
    )


def random_prompt(vocab_size: int, num_tokens: int) -> list[int]:
    """Token ids for random weights, which have no words."""
    if num_tokens < 1:
        raise ValueError(f"--tokens is {num_tokens}, must be at least 1")
    ids = np.random.default_rng(num_tokens).integers(0, vocab_size, num_tokens)
    return [int(token) for token in ids]
