# SPDX-License-Identifier: Apache-2.0
"""What the demo's processes do. Each leaves its results as JSON in the work folder.

prefill   runs the prompt, generates, offloads G1 -> G2 -> G3, wipes G1 and G2
onboard   reopens G3, onboards G3 -> G2 -> G1, generates the same tokens
rank      one of several tensor-parallel ranks: onboards its own KV heads only
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import kvbm_cpp as kvbm
import numpy as np

import tiers
from backend import MODEL_NAME, TINY, Backend, load_model
from engine import cacheable_tokens
from limits import measure_copy, measure_disk
from model import open_gguf
from paged_cache import BLOCK_TOKENS, PagedCache
from progress import Progress, TalkingEngine
from prompt import make_prompt, random_prompt

Results = dict[str, Any]

#: Every process shuffles its own block table, so that nothing works because ids happen to agree.
PREFILL_SEED, ONBOARD_SEED, RANK_SEED = 1, 2, 3


def write_results(folder: Path, role: str, results: Results) -> None:
    """Leaves a role's results for the processes that follow."""
    (folder / f"{role}.json").write_text(json.dumps(results, indent=1))


def read_results(folder: Path, role: str) -> Results:
    """Reads what write_results left; a missing file is an error that says which step is missing."""
    path = folder / f"{role}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: run the step '{role}' first")
    results: Results = json.loads(path.read_text())
    return results


def head_checksums(cache: PagedCache, num_blocks: int) -> list[list[str]]:
    """[KV head][logical block]: checksums of one head's part, taken from the tensors by numpy.

    They do not go through kvbm's transfers or layouts, so they say what the engine wrote.
    """
    heads: list[list[str]] = [[] for _ in range(cache.num_kv_heads)]
    for block in range(num_blocks):
        tensor = np.stack([cache.read_block(layer, block) for layer in range(cache.num_layers)])
        for head, sums in enumerate(heads):
            part = np.ascontiguousarray(tensor[..., head, :])  # [layers, 2, 16, head_dim]
            sums.append(str(kvbm.checksum_bytes(part)))
    return heads


def checksums(
    manager: kvbm.TransferManager, handle: kvbm.LayoutHandle, blocks: Sequence[int]
) -> list[str]:
    """Checksums of the logical tensors, the same in every tier and format."""
    return [str(checksum) for checksum in manager.block_checksums(handle, blocks)]


def prefill(
    folder: Path, backend: Backend, tiny: bool, num_tokens: int, num_generated: int
) -> None:
    """Steps (a) to (c): prefill and generate, offload every full block, wipe."""
    progress = Progress("prefill")
    progress.say("loading the model")
    reader = tokenizer = None
    if tiny:
        prompt = random_prompt(TINY.vocab_size, num_tokens)
    else:
        from tokenizer import Tokenizer

        reader = open_gguf()
        tokenizer = Tokenizer.load(reader)
        prompt = make_prompt(tokenizer, num_tokens)
    model = backend.place(load_model(tiny, reader))
    shape = model.shape
    num_blocks = len(prompt) // BLOCK_TOKENS
    cache_blocks = (len(prompt) + num_generated) // BLOCK_TOKENS + 1
    manager = backend.new_manager()
    cache = backend.engine_cache(
        manager,
        shape.num_layers,
        shape.num_kv_heads,
        shape.head_dim,
        cache_blocks,
        PREFILL_SEED,
    )

    progress.say(f"prefilling {len(prompt)} tokens")
    generation = TalkingEngine(model, cache, progress).generate(prompt, num_generated)
    progress.say(f"first token after {generation.time_to_first_token:.2f} s")

    logical = range(num_blocks)
    physical = cache.physical_blocks(logical)
    config = tiers.block_config(num_blocks, shape.num_layers, shape.num_kv_heads, shape.head_dim)
    g1 = tiers.register_cache(manager, cache)
    g2 = tiers.register_pinned(manager, config)
    g3 = tiers.create_store(manager, config, folder)
    written = checksums(manager, g1, physical)

    to_pinned = measure_copy(
        "G1 -> G2",
        num_blocks,
        config.block_bytes,
        lambda: tiers.move(manager, g1, physical, g2, logical),
        backend.plain_copies(num_blocks * config.block_bytes, to_host=True),
    )
    progress.say(f"offloaded {num_blocks} blocks to pinned memory")
    to_disk = measure_disk(
        "G2 -> G3",
        folder,
        num_blocks,
        config.block_bytes,
        lambda: tiers.move(manager, g2, logical, g3, logical),
        writes=True,
    )
    begin = time.perf_counter()
    manager.sync(g3)
    sync_seconds = time.perf_counter() - begin
    progress.say(f"offloaded {num_blocks} blocks to disk")

    pinned_sums, disk_sums = checksums(manager, g2, logical), checksums(manager, g3, logical)
    heads = head_checksums(cache, num_blocks)
    store = manager.layout(g3).regions[0]
    disk = f"{store.io_engine}, {'O_DIRECT' if store.is_direct else 'page cache'}"

    cache.wipe()
    manager.fill_blocks(g2, logical, kvbm.FillPattern(kvbm.FillPattern.Kind.Constant, 0))
    wiped = not set(checksums(manager, g1, physical) + checksums(manager, g2, logical)) & set(
        written
    )
    progress.say("wiped device and pinned memory")

    write_results(
        folder,
        "prefill",
        {
            "pid": os.getpid(),
            "model": "random weights" if tiny else MODEL_NAME,
            "device": backend.name,
            "prompt": prompt,
            "tokens": generation.tokens,
            "text": tokenizer.decode(generation.tokens, skip_special=True) if tokenizer else "",
            "first_logits": str(kvbm.checksum_bytes(generation.first_logits)),
            "time_to_first_token": generation.time_to_first_token,
            "prefilled_tokens": generation.prefilled_tokens,
            "shape": asdict(shape),
            "cache_blocks": cache_blocks,
            "blocks": num_blocks,
            "block_bytes": config.block_bytes,
            "checksums": written,
            "pinned_checksums": pinned_sums,
            "disk_checksums": disk_sums,
            "head_checksums": heads,
            "wiped": wiped,
            "disk": disk,
            "sync_seconds": sync_seconds,
            "hops": [asdict(to_pinned), asdict(to_disk)],
        },
    )


def onboard(folder: Path, backend: Backend, tiny: bool) -> Any:
    """Step (d), and (g) where the store was damaged: onboard and generate again.

    @return the model, placed, for whoever goes on
    """
    progress = Progress("onboard")
    before = read_results(folder, "prefill")
    progress.say("loading the model")
    model = backend.place(load_model(tiny))
    shape = model.shape
    num_blocks = before["blocks"]
    config = tiers.block_config(num_blocks, shape.num_layers, shape.num_kv_heads, shape.head_dim)
    manager = backend.new_manager()
    cache = backend.engine_cache(
        manager,
        shape.num_layers,
        shape.num_kv_heads,
        shape.head_dim,
        before["cache_blocks"],
        ONBOARD_SEED,
    )
    cache.wipe()
    g1 = tiers.register_cache(manager, cache)
    g2 = tiers.register_pinned(manager, config)
    engine = TalkingEngine(model, cache, progress)
    logical = list(range(num_blocks))

    progress.say(f"onboarding {num_blocks} blocks")
    begin = time.perf_counter()
    g3 = tiers.open_store(manager, folder)
    failed = tiers.move(manager, g3, logical, g2, logical)
    refused = {logical[block.position]: str(block.error) for block in failed}
    good = [block for block in logical if block not in refused]
    physical = cache.physical_blocks(good)
    tiers.move(manager, g2, good, g1, physical)
    onboarded = time.perf_counter()
    for error in refused.values():
        progress.say(f"refused: {error}")
    generation = engine.generate(
        before["prompt"],
        len(before["tokens"]),
        already_cached_tokens=num_blocks * BLOCK_TOKENS,
        missing_blocks=list(refused),
    )
    first_token = onboarded - begin + generation.time_to_first_token
    progress.say(f"first token after {first_token:.2f} s")

    sums = dict(zip(good, checksums(manager, g1, physical), strict=True))
    from_disk = measure_disk(
        "G3 -> G2",
        folder,
        len(good),
        config.block_bytes,
        lambda: tiers.move(manager, g3, good, g2, good),
        writes=False,
    )
    from_pinned = measure_copy(
        "G2 -> G1",
        len(good),
        config.block_bytes,
        lambda: tiers.move(manager, g2, good, g1, physical),
        backend.plain_copies(len(good) * config.block_bytes, to_host=False),
    )
    progress.say("measured the hops beside plain copies and plain disk I/O")

    write_results(
        folder,
        "onboard",
        {
            "pid": os.getpid(),
            "tokens": generation.tokens,
            "first_logits": str(kvbm.checksum_bytes(generation.first_logits)),
            "time_to_first_token": first_token,
            "onboard_seconds": onboarded - begin,
            "prefilled_tokens": generation.prefilled_tokens,
            "tail_tokens": len(before["prompt"]) - cacheable_tokens(len(before["prompt"])),
            "refused": {str(block): error for block, error in refused.items()},
            "checksums": {str(block): checksum for block, checksum in sums.items()},
            "hops": [asdict(from_disk), asdict(from_pinned)],
        },
    )
    return model


def rank(folder: Path, backend: Backend, index: int, num_ranks: int) -> None:
    """Step (f): one tensor-parallel rank onboards its KV heads straight from the store."""
    progress = Progress(f"rank {index}")
    before = read_results(folder, "prefill")
    shape = before["shape"]
    if shape["num_kv_heads"] % num_ranks or not 0 <= index < num_ranks:
        raise ValueError(
            f"rank {index} of {num_ranks} does not fit {shape['num_kv_heads']} KV heads"
        )
    heads = shape["num_kv_heads"] // num_ranks
    num_blocks = before["blocks"]
    manager = backend.new_manager()
    cache = backend.engine_cache(
        manager,
        shape["num_layers"],
        heads,
        shape["head_dim"],
        num_blocks,
        RANK_SEED + index,
    )
    cache.wipe()
    g1, g3 = tiers.register_cache(manager, cache), tiers.open_store(manager, folder)
    logical = list(range(num_blocks))
    physical = cache.physical_blocks(logical)
    options = kvbm.TransferOptions(
        src_head_range=(index * heads, (index + 1) * heads), dst_head_range=(0, heads)
    )
    begin = time.perf_counter()
    failed = tiers.move(manager, g3, logical, g1, physical, options)
    seconds = time.perf_counter() - begin
    refused = {logical[block.position]: str(block.error) for block in failed}
    good = [block for block in logical if block not in refused]
    sums = head_checksums(cache, num_blocks)
    progress.say(f"onboarded heads {index * heads} to {(index + 1) * heads} of {len(good)} blocks")
    write_results(
        folder,
        f"rank{index}",
        {
            "pid": os.getpid(),
            "first_head": index * heads,
            "seconds": seconds,
            "refused": {str(block): error for block, error in refused.items()},
            "head_checksums": [{str(block): of_head[block] for block in good} for of_head in sums],
        },
    )
