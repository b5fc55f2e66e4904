# SPDX-License-Identifier: Apache-2.0
"""A serving engine in small: chunked prefill, greedy decoding, reuse of cached blocks."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from model import Floats, Ids, ModelShape
from paged_cache import BLOCK_TOKENS, PagedCache


class LanguageModel(Protocol):
    """Model or TorchModel: the engine only hands hidden states from one call to the other."""

    shape: ModelShape

    def forward(self, tokens: Ids, start: int, cache: Any) -> Any: ...
    def logits(self, hidden: Any) -> Floats: ...


@dataclass(frozen=True)
class Generation:
    """What `Engine.generate` did. Times are wall-clock seconds."""

    tokens: list[int]
    first_logits: Floats  # [vocab_size], the logits that chose tokens[0]
    time_to_first_token: float  # from the call until tokens[0] is known
    decode_time: float  # for tokens[1:]
    prefilled_tokens: int  # prompt tokens that went through the model in this call


def cacheable_tokens(prompt_tokens: int) -> int:
    """Prompt tokens that lie in full blocks before the tail.

    The tail, 1 to 16 tokens with the last prompt token among them, always goes through the model:
    the first generated token needs the last prompt token's hidden state. A prompt of whole blocks
    keeps its last block as the tail.
    """
    if prompt_tokens < 1:
        raise ValueError(f"a prompt of {prompt_tokens} tokens is empty")
    return (prompt_tokens - 1) // BLOCK_TOKENS * BLOCK_TOKENS


class Engine:
    """Runs one sequence of a model over a paged cache, greedily."""

    def __init__(self, model: LanguageModel, cache: PagedCache, *, chunk_tokens: int = 512):
        """@param chunk_tokens  prompt tokens per forward pass, a multiple of 16"""
        if chunk_tokens < BLOCK_TOKENS or chunk_tokens % BLOCK_TOKENS:
            raise ValueError(
                f"chunk_tokens is {chunk_tokens}, must be a multiple of {BLOCK_TOKENS}"
            )
        shape = model.shape
        wanted = (shape.num_layers, shape.num_kv_heads, shape.head_dim)
        given = (cache.num_layers, cache.num_kv_heads, cache.head_dim)
        if wanted != given:
            raise ValueError(f"the cache has (layers, KV heads, head_dim) {given}, not {wanted}")
        self.model = model
        self.cache = cache
        self.chunk_tokens = chunk_tokens

    def prefill(self, tokens: ArrayLike, start: int) -> Any:
        """Runs tokens at positions start, start + 1, ... and caches their K and V.

        Chunks end on multiples of chunk_tokens, so the cuts do not depend on where a call starts.

        @pre   every position below start is cached
        @return hidden state of the last token, [hidden]
        """
        ids: Ids = np.asarray(tokens, dtype=np.int64)
        if ids.ndim != 1 or len(ids) == 0:
            raise ValueError(f"tokens of shape {ids.shape} are not a list of at least one token")
        first, end = start, start + len(ids)
        while True:
            last = min(end, (first // self.chunk_tokens + 1) * self.chunk_tokens)
            hidden = self.model.forward(ids[first - start : last - start], first, self.cache)
            if last == end:
                return hidden[-1]
            first = last

    def prefill_block(self, prompt_tokens: ArrayLike, block: int) -> None:
        """Prefills one full logical block again; the blocks before it must be cached."""
        ids: Ids = np.asarray(prompt_tokens, dtype=np.int64)
        first = block * BLOCK_TOKENS
        if block < 0 or first + BLOCK_TOKENS > len(ids):
            raise IndexError(f"block {block} is not a full block of a prompt of {len(ids)} tokens")
        self.model.forward(ids[first : first + BLOCK_TOKENS], first, self.cache)

    def decode(self, token: int, position: int) -> Floats:
        """Runs one token at a position and returns the next token's logits, [vocab_size]."""
        hidden = self.model.forward(np.array([token], dtype=np.int64), position, self.cache)
        return self.model.logits(hidden[-1])

    def generate(
        self,
        prompt_tokens: Sequence[int],
        n: int,
        *,
        already_cached_tokens: int = 0,
        missing_blocks: Collection[int] = (),
        stop_ids: Collection[int] = (),
    ) -> Generation:
        """Generates n tokens greedily, fewer if one of stop_ids comes (it is the last one then).

        Whatever is cached already, the tail of the prompt is a forward pass of its own, so the
        logits are the same bits whenever the cached K and V are.

        @param already_cached_tokens  leading prompt tokens whose blocks are in the cache, a
            multiple of 16; blocks beyond `cacheable_tokens` are computed all the same
        @param missing_blocks  logical blocks below already_cached_tokens that are not in the
            cache after all; they are prefilled again, lowest first
        """
        if n < 1:
            raise ValueError(f"n is {n}, must be at least 1")
        ids: Ids = np.asarray(prompt_tokens, dtype=np.int64)
        tail = cacheable_tokens(len(ids))
        if already_cached_tokens % BLOCK_TOKENS or not 0 <= already_cached_tokens <= len(ids):
            raise ValueError(
                f"already_cached_tokens is {already_cached_tokens}, must be a multiple of "
                f"{BLOCK_TOKENS} in [0, {len(ids)}]"
            )
        if len(ids) + n - 1 > self.cache.capacity_tokens:
            raise ValueError(
                f"{len(ids)} prompt tokens and {n} new ones do not fit into a cache of "
                f"{self.cache.capacity_tokens} tokens"
            )
        cached = min(already_cached_tokens, tail)
        missing = sorted(set(missing_blocks))
        for block in missing:
            if not 0 <= block < already_cached_tokens // BLOCK_TOKENS:
                raise ValueError(
                    f"missing block {block} is outside the cached blocks "
                    f"[0, {already_cached_tokens // BLOCK_TOKENS})"
                )
        missing = [block for block in missing if block < cached // BLOCK_TOKENS]

        begin = time.perf_counter()
        for block in missing:
            self.prefill_block(ids, block)
        if cached < tail:
            self.prefill(ids[cached:tail], cached)
        hidden = self.model.forward(ids[tail:], tail, self.cache)[-1]
        first_logits = self.model.logits(hidden)
        tokens = [int(np.argmax(first_logits))]
        first = time.perf_counter()
        while len(tokens) < n and tokens[-1] not in stop_ids:
            logits = self.decode(tokens[-1], len(ids) + len(tokens) - 1)
            tokens.append(int(np.argmax(logits)))
        return Generation(
            tokens=tokens,
            first_logits=first_logits,
            time_to_first_token=first - begin,
            decode_time=time.perf_counter() - first,
            prefilled_tokens=len(missing) * BLOCK_TOKENS + len(ids) - cached,
        )
