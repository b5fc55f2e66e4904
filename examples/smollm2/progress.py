# SPDX-License-Identifier: Apache-2.0
"""Progress lines on stderr while the demo runs, and an engine that tells how far it is."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from engine import Engine, LanguageModel
from model import Floats, Ids
from paged_cache import PagedCache


class Progress:
    """Prints lines such as "  1.3 s [prefill] 512 of 1000 tokens"."""

    def __init__(self, role: str):
        self._role = role
        self._begin = time.perf_counter()

    def say(self, text: str) -> None:
        elapsed = time.perf_counter() - self._begin
        print(f"{elapsed:7.2f} s [{self._role}] {text}", file=sys.stderr, flush=True)


class TalkingEngine(Engine):
    """An Engine that reports every chunk of a prefill and every eighth generated token."""

    def __init__(self, model: LanguageModel, cache: PagedCache, progress: Progress):
        super().__init__(model, cache)
        self._progress = progress
        self._decoded = 0

    def prefill(self, tokens: ArrayLike, start: int) -> Any:
        """As Engine.prefill, chunk by chunk on the same grid."""
        ids: Ids = np.asarray(tokens, dtype=np.int64)
        first, end = start, start + len(ids)
        while True:
            last = min(end, (first // self.chunk_tokens + 1) * self.chunk_tokens)
            hidden = super().prefill(ids[first - start : last - start], first)
            self._progress.say(f"prefilled tokens {first} to {last}")
            if last == end:
                return hidden
            first = last

    def decode(self, token: int, position: int) -> Floats:
        """As Engine.decode."""
        self._decoded += 1
        if self._decoded == 1:
            self._progress.say("the first token is known")
        if self._decoded % 8 == 0:
            self._progress.say(f"generated {self._decoded} tokens")
        return super().decode(token, position)
