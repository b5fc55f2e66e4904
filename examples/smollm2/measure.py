# SPDX-License-Identifier: Apache-2.0
"""Times this folder's engine alone: load, prefill, decode, and a first token from cached blocks."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from engine import Engine, cacheable_tokens
from model import Model, open_gguf
from paged_cache import BLOCK_TOKENS, PagedCache
from tokenizer import Tokenizer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path, help="text file, long enough for the prompt")
    parser.add_argument("--tokens", type=int, default=1000, help="prompt tokens")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens to generate")
    parser.add_argument("--chunk-tokens", type=int, default=512, help="tokens per forward pass")
    arguments = parser.parse_args()

    begin = time.perf_counter()
    reader = open_gguf()
    opened = time.perf_counter()
    model, tokenizer = Model.load(reader), Tokenizer.load(reader)
    loaded = time.perf_counter()
    print(f"open GGUF {opened - begin:.2f} s, dequantise {loaded - opened:.2f} s")

    ids = tokenizer.encode(arguments.text.read_text(encoding="utf-8"))[: arguments.tokens]
    shape = model.shape
    num_blocks = (len(ids) + arguments.new_tokens) // BLOCK_TOKENS + 1
    cache = PagedCache(shape.num_layers, shape.num_kv_heads, shape.head_dim, num_blocks)
    engine = Engine(model, cache, chunk_tokens=arguments.chunk_tokens)
    cached = cacheable_tokens(len(ids))
    middle = cached // BLOCK_TOKENS // 2

    fresh = engine.generate(ids, arguments.new_tokens)
    kept = [cache.read_block(layer, middle) for layer in range(shape.num_layers)]
    restored = engine.generate(ids, arguments.new_tokens, already_cached_tokens=cached)
    cache.wipe([middle])
    repaired = engine.generate(
        ids, arguments.new_tokens, already_cached_tokens=cached, missing_blocks=[middle]
    )
    again = [cache.read_block(layer, middle) for layer in range(shape.num_layers)]
    for name, run in (("fresh", fresh), ("all cached", restored), ("one missing", repaired)):
        bits = np.array_equal(run.first_logits, fresh.first_logits)
        print(
            f"{name:12} prefilled {run.prefilled_tokens:5} tokens, first token after "
            f"{run.time_to_first_token:6.3f} s, then {len(run.tokens) - 1} in "
            f"{run.decode_time:.2f} s, tokens equal: {run.tokens == fresh.tokens}, "
            f"logits bit-equal: {bits}"
        )
    print(f"repaired block bit-equal: {np.array_equal(kept, again)}")
    return 0 if fresh.tokens == restored.tokens == repaired.tokens else 1


if __name__ == "__main__":
    sys.exit(main())
