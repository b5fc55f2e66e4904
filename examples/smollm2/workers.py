# SPDX-License-Identifier: Apache-2.0
"""Two workers on one machine: one prefills, the other one goes on from its blocks.

serve   runs the prompt, generates, offloads G1 -> G2, publishes where its G2 is, and stays
fetch   imports that, reads the blocks from the other one's G2 into its own G1, and generates

Nothing passes through the disk but the metadata, a few KiB in a folder.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import kvbm_cpp as kvbm

import report as reports
import tiers
from backend import MODEL_NAME, TINY, Backend, load_model
from engine import cacheable_tokens
from limits import measure_copy
from model import open_gguf
from paged_cache import BLOCK_TOKENS
from progress import Progress, TalkingEngine
from prompt import make_prompt, random_prompt
from roles import ONBOARD_SEED, PREFILL_SEED, Results, checksums, read_results, write_results

#: What the serving worker is called, and where metadata is exchanged.
NAME, EXCHANGE = "prefill", "workers"
PATIENCE = 600.0


def serve(folder: Path, backend: Backend, tiny: bool, num_tokens: int, num_generated: int) -> None:
    """The prefill worker; it ends when its standard input does."""
    progress = Progress("worker prefill")
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
    manager = backend.new_manager(nixl_backends=["ucx"])
    cache = backend.engine_cache(
        manager, shape.num_layers, shape.num_kv_heads, shape.head_dim, cache_blocks, PREFILL_SEED
    )
    progress.say(f"prefilling {len(prompt)} tokens")
    generation = TalkingEngine(model, cache, progress).generate(prompt, num_generated)
    progress.say(f"first token after {generation.time_to_first_token:.2f} s")

    logical = range(num_blocks)
    config = tiers.block_config(num_blocks, shape.num_layers, shape.num_kv_heads, shape.head_dim)
    g1, g2 = tiers.register_cache(manager, cache), tiers.register_pinned(manager, config)
    written = checksums(manager, g1, cache.physical_blocks(logical))
    tiers.move(manager, g1, cache.physical_blocks(logical), g2, logical)
    cache.wipe()
    write_results(
        folder,
        "serve",
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
            "cache_blocks": cache_blocks,
            "blocks": num_blocks,
            "block_bytes": config.block_bytes,
            "checksums": written,
        },
    )
    exchange = kvbm.MetadataExchange.folder(folder / EXCHANGE)
    exchange.publish(NAME, manager.export_metadata([g2]).to_bytes())
    progress.say(f"offered {num_blocks} blocks in pinned memory as worker {manager.worker_id}")
    sys.stdin.read()
    manager.close()


def fetch(folder: Path, backend: Backend, tiny: bool) -> None:
    """The decode worker."""
    progress = Progress("worker decode")
    progress.say("loading the model, while the other one prefills")
    model = backend.place(load_model(tiny))
    shape = model.shape
    manager = backend.new_manager(nixl_backends=["ucx"])
    exchange = kvbm.MetadataExchange.folder(folder / EXCHANGE)
    metadata = exchange.fetch(NAME, PATIENCE)
    before = read_results(folder, "serve")
    num_blocks = before["blocks"]
    logical = list(range(num_blocks))
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
    physical = cache.physical_blocks(logical)

    begin = time.perf_counter()
    there = manager.resolve(manager.import_metadata(metadata), kvbm.LogicalLayoutHandle.G2)
    tiers.move(manager, there, logical, g1, physical)
    fetched = time.perf_counter()
    generation = TalkingEngine(model, cache, progress).generate(
        before["prompt"],
        len(before["tokens"]),
        already_cached_tokens=num_blocks * BLOCK_TOKENS,
    )
    first_token = fetched - begin + generation.time_to_first_token
    progress.say(f"first token after {first_token:.2f} s")
    sums = checksums(manager, g1, physical)

    num_bytes = num_blocks * before["block_bytes"]
    hops = [
        measure_copy(
            "G2 there -> G1 here",
            num_blocks,
            before["block_bytes"],
            lambda: tiers.move(manager, there, logical, g1, physical),
            backend.plain_copies(num_bytes, to_host=False),
        )
    ]
    ways = [manager.how_reached(there)]
    config = tiers.block_config(num_blocks, shape.num_layers, shape.num_kv_heads, shape.head_dim)
    wire_sums: list[str] = []
    # The same blocks once more, as if the other worker ran on another machine.
    with backend.new_manager(nixl_backends=["ucx"], map_peer_memory=False) as far:
        g2 = tiers.register_pinned(far, config)
        source = far.resolve(far.import_metadata(metadata), "G2")
        hops.append(
            measure_copy(
                "G2 there -> G2 here",
                num_blocks,
                before["block_bytes"],
                lambda: tiers.move(far, source, logical, g2, logical),
                backend.plain_copies(num_bytes, to_host=True),
            )
        )
        ways.append(far.how_reached(source))
        wire_sums = checksums(far, g2, logical)
    progress.say("measured the ways beside plain copies")
    write_results(
        folder,
        "fetch",
        {
            "pid": os.getpid(),
            "tokens": generation.tokens,
            "first_logits": str(kvbm.checksum_bytes(generation.first_logits)),
            "time_to_first_token": first_token,
            "fetch_seconds": fetched - begin,
            "prefilled_tokens": generation.prefilled_tokens,
            "tail_tokens": len(before["prompt"]) - cacheable_tokens(len(before["prompt"])),
            "checksums": sums,
            "wire_checksums": wire_sums,
            "hops": [asdict(hop) for hop in hops],
            "ways": ways,
        },
    )
    manager.close()


def compare(before: Results, after: Results) -> list[reports.Check]:
    """Every claim of the two workers, checked on what they left."""
    num_equal = sum(a == b for a, b in zip(before["tokens"], after["tokens"], strict=False))
    checks = [
        reports.Check(
            "tokens equal to a single process's",
            bool(before["tokens"]) and before["tokens"] == after["tokens"],
            f"{num_equal} of {len(before['tokens'])}",
        ),
        reports.Check(
            "decoded by another process",
            before["pid"] != after["pid"],
            f"processes {before['pid']} and {after['pid']}",
        ),
        reports.Check(
            "first logits bit-equal",
            before["first_logits"] == after["first_logits"],
            before["first_logits"][:16],
        ),
        reports.Check(
            "prompt tokens prefilled again",
            after["prefilled_tokens"] == after["tail_tokens"],
            f"{after['prefilled_tokens']} of {len(before['prompt'])}",
        ),
    ]
    for name, key in (("G1 here", "checksums"), ("G2 here", "wire_checksums")):
        found = after[key]
        equal = sum(a == b for a, b in zip(before["checksums"], found, strict=False))
        checks.append(
            reports.Check(
                f"checksums equal: {name}",
                bool(found) and before["checksums"] == found,
                f"{equal} of {before['blocks']} blocks",
            )
        )
    return checks


def summary(folder: Path) -> Results:
    """What `--json` prints; rates in bytes per second, times in seconds."""
    before, after = read_results(folder, "serve"), read_results(folder, "fetch")
    checks = compare(before, after)
    hops = []
    for hop, way in zip(after["hops"], after["ways"], strict=True):
        rate, limit = hop["bytes"] / hop["seconds"], hop["bytes"] / hop["limit_seconds"]
        hops.append(
            {**hop, "way": way, "rate": rate, "limit_rate": limit, "share_of_limit": rate / limit}
        )
    return {
        "model": before["model"],
        "device": before["device"],
        "prompt_tokens": len(before["prompt"]),
        "generated_tokens": len(before["tokens"]),
        "text": before["text"],
        "blocks": before["blocks"],
        "block_bytes": before["block_bytes"],
        "hops": hops,
        "time_to_first_token": {
            "prefill": before["time_to_first_token"],
            "decode": after["time_to_first_token"],
            "fetch": after["fetch_seconds"],
            "ratio": before["time_to_first_token"] / after["time_to_first_token"],
        },
        "prefilled_tokens": {
            "prefill": before["prefilled_tokens"],
            "decode": after["prefilled_tokens"],
        },
        "checks": [vars(check) for check in checks],
        "passed": all(check.passed for check in checks),
    }


def table(result: Results) -> str:
    """The result for people."""
    times, prefilled = result["time_to_first_token"], result["prefilled_tokens"]
    hops = [["hop", "blocks", "MiB", "ms", "GB/s", "limit", "share", "limit is", "reached"]]
    for hop in result["hops"]:
        hops.append(
            [
                hop["name"],
                str(hop["blocks"]),
                f"{hop['bytes'] / 2**20:.1f}",
                f"{hop['seconds'] * 1e3:.2f}",
                f"{hop['rate'] / 1e9:.2f}",
                f"{hop['limit_rate'] / 1e9:.2f}",
                f"{hop['share_of_limit']:.0%}",
                hop["limit_how"],
                hop["way"],
            ]
        )
    first = [
        ["time to first token", "prompt tokens run", "seconds"],
        ["prefill worker", str(prefilled["prefill"]), f"{times['prefill']:.3f}"],
        ["decode worker", str(prefilled["decode"]), f"{times['decode']:.3f}"],
    ]
    checks = [["check", "", "detail"]]
    for check in result["checks"]:
        checks.append([check["name"], "ok" if check["passed"] else "DIFFERS", check["detail"]])
    said = ["the model says: " + " ".join(result["text"].split()), ""] if result["text"] else []
    return "\n".join(
        [
            f"{result['model']}, two workers: {result['prompt_tokens']} prompt tokens, "
            f"{result['generated_tokens']} generated; {result['blocks']} blocks of "
            f"{BLOCK_TOKENS} tokens",
            f"G1 {result['device']} (paged, NHD), G2 pinned; best of {tiers.REPEATS}",
            "",
            *reports.rows(hops, {1, 2, 3, 4, 5, 6}),
            "",
            *reports.rows(first, {1, 2}),
            f"{times['ratio']:.1f} times sooner, of it {times['fetch'] * 1e3:.0f} ms for meeting "
            "the other worker and reading its blocks",
            "",
            *reports.rows(checks, set()),
            "",
            *said,
            "everything is equal" if result["passed"] else "SOMETHING DIFFERS: see above",
        ]
    )
