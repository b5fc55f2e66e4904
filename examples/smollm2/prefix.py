# SPDX-License-Identifier: Apache-2.0
"""A second prompt that begins like the first one: what is shared is not prefilled again.

The first prompt's blocks go into a kvbm.PrefixStore over device memory, pinned memory, a file and
an object store: the bucket that KVBM_DEMO_BUCKET names, else one of an S3 server on this machine.
The second prompt finds them in each of these tiers in turn: first all tiers are warm, then other
blocks push them out of device memory, then a new store finds what the file has kept, and at last
one finds what the bucket has kept.
"""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import kvbm_cpp as kvbm
import numpy as np

import report as reports
import tiers
from backend import MODEL_NAME, TINY, Backend, load_model
from engine import Engine, cacheable_tokens
from local_s3 import LocalS3, why_missing
from model import open_gguf
from paged_cache import BLOCK_TOKENS, PagedCache
from progress import Progress
from prompt import make_prompt, random_prompt
from roles import PREFILL_SEED, Results

#: Chunks of the prefill: the shared part ends with one, so that both prompts do the same sums.
CHUNK_TOKENS = 128
INDEX_NAME = "kv.store.index"
BUCKET_VARIABLE = "KVBM_DEMO_BUCKET"
LOCAL_BUCKET = "kvbm-demo"
OTHER_QUESTION = "\n\nWhich command runs all tests?"


@dataclass(frozen=True)
class Row:
    """One way to the second prompt's first token."""

    tier: str  # "G2", or "none" for a prefill of everything
    blocks_hit: int
    onboard_seconds: float
    time_to_first_token: float  # with the onboard
    prefilled_tokens: int
    same_tokens: bool


def make_prompts(tiny: bool, num_tokens: int) -> tuple[list[int], list[int], int]:
    """Two prompts of equal length, and how many of their first tokens are the same."""
    shared = (num_tokens - 1) // CHUNK_TOKENS * CHUNK_TOKENS
    if shared < CHUNK_TOKENS:
        raise ValueError(f"--tokens is {num_tokens}, must be more than {CHUNK_TOKENS}")
    if tiny:
        first = random_prompt(TINY.vocab_size, num_tokens)
        other = [(token + 1) % TINY.vocab_size for token in first[shared:]]
        return first, first[:shared] + other, shared
    from tokenizer import Tokenizer

    tokenizer = Tokenizer.load(open_gguf())
    first = make_prompt(tokenizer, num_tokens)
    tail = tokenizer.encode(tokenizer.chat("\0" + OTHER_QUESTION).split("\0")[1])
    tail = tail[-(num_tokens - shared) :]
    return first, first[:shared] + tail, shared


class Bucket:
    """Where G4 lies: a bucket that the environment names, or one of a server of our own.

    A context manager; there is none where `name` is empty, and `why` says so.
    """

    def __init__(self) -> None:
        self.name = os.environ.get(BUCKET_VARIABLE, "")
        self.why = f"bucket {self.name} of {BUCKET_VARIABLE}"
        self._server: LocalS3 | None = None
        # Another run must not find what this one stores.
        self._prefix = f"kvbm-demo/{uuid.uuid4().hex}"
        self._options: dict[str, Any] = {}
        if self.name:
            return
        if missing := why_missing():
            self.why = f"no G4: {BUCKET_VARIABLE} names no bucket, and {missing}"
            return
        self._server = LocalS3()  # starts while the model is loaded
        self.name = LOCAL_BUCKET
        self.why = "a bucket of moto's S3 server on this machine"

    def wait(self) -> None:
        """Returns when the bucket can be used."""
        if self._server is not None and not self._options:
            self._server.wait().make_bucket(self.name)
            self._options = {
                "endpoint": self._server.endpoint,
                "credentials": kvbm.Credentials("anybody", "anything"),
            }

    def place(self, builder: kvbm.PhysicalLayoutBuilder) -> kvbm.PhysicalLayoutBuilder:
        """The objects of this run."""
        return builder.allocate_object(self.name, self._prefix, **self._options)

    def __enter__(self) -> Bucket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.stop()


@dataclass(frozen=True)
class Setup:
    """What all stores of a run have in common."""

    manager: kvbm.TransferManager
    fingerprint: kvbm.Checksum
    config: kvbm.LayoutConfig  # num_blocks: those that are shared
    folder: Path
    bucket: Bucket


class Tiers:
    """The layouts of a store, and the store."""

    def __init__(self, setup: Setup, names: str):
        """@param names  the tiers there are, e.g. "G1 G2 G3"; G1 holds the shared blocks"""
        self._manager = setup.manager
        self._handles: list[kvbm.LayoutHandle] = []
        file = setup.folder / tiers.STORE_NAME
        config = setup.config
        options: list[kvbm.PrefixTier] = []
        for number, name in enumerate(("G1", "G2", "G3", "G4")):
            if name not in names.split():
                continue
            place = {
                "G1": lambda b: b.allocate_device(0),
                "G2": lambda b: b.allocate_pinned(),
                "G3": lambda b: b.allocate_disk(file),
                "G4": setup.bucket.place,
            }[name]
            if name == "G3" and file.exists():
                layout = self._manager.open_disk(file)
            else:
                shape = config.with_num_blocks(config.num_blocks << number)
                builder = self._manager.layout_builder().config(shape)
                layout = place(builder.fully_contiguous(tiers.UNIVERSAL_TP)).build()
            handle = self._manager.register_layout(layout)
            self._handles.append(handle)
            index = setup.folder / INDEX_NAME if name == "G3" else None
            options.append(kvbm.PrefixTier(handle, index=index))
        self.store = kvbm.PrefixStore(self._manager, setup.fingerprint, options)

    def close(self) -> None:
        """Ends the store; what memory has is lost, what files and objects have is not."""
        self.store.close()
        for handle in self._handles:
            self._manager.unregister_layout(handle)


class Runner:
    """The engine, and the second prompt over and over."""

    def __init__(
        self, engine: Engine, cache: PagedCache, g1: kvbm.LayoutHandle, prompt: list[int], n: int
    ):
        self._engine = engine
        self._cache = cache
        self._g1 = g1
        self._prompt = prompt
        self._count = n
        self._cache.wipe()
        cold = engine.generate(prompt, n)
        self._expected = cold.tokens
        self.rows = [
            Row("none", 0, 0.0, cold.time_to_first_token, cold.prefilled_tokens, True),
        ]

    def run(self, tier: str, store: kvbm.PrefixStore) -> None:
        """Onboards what the store has, which must be in `tier`, and generates."""
        self._cache.wipe()
        # Blocks on their way to slower tiers would share the processors with what is timed.
        while store.stats().queued_writes > 0:
            time.sleep(0.01)
        begin = time.perf_counter()
        keys = store.keys(self._prompt)[: cacheable_tokens(len(self._prompt)) // BLOCK_TOKENS]
        keys = keys[: store.lookup(keys).num_blocks]
        physical = self._cache.physical_blocks(range(len(keys)))
        brought = store.onboard(keys, self._g1, physical).wait()
        onboarded = time.perf_counter() - begin
        cached = brought.num_blocks * BLOCK_TOKENS
        generation = self._engine.generate(self._prompt, self._count, already_cached_tokens=cached)
        from_tier = sum(found.name == tier for found in brought.tiers)
        self.rows.append(
            Row(
                tier,
                from_tier,
                onboarded,
                onboarded + generation.time_to_first_token,
                generation.prefilled_tokens,
                generation.tokens == self._expected,
            )
        )


def visit(
    setup: Setup,
    runner: Runner,
    engine: Engine,
    cache: PagedCache,
    g1: kvbm.LayoutHandle,
    first: list[int],
    progress: Progress,
) -> None:
    """Stores the first prompt's blocks, and runs the second prompt from each tier in turn."""
    num_blocks = setup.config.num_blocks
    shared = num_blocks * BLOCK_TOKENS
    has_bucket = bool(setup.bucket.name)
    progress.say(f"the first prompt, which shares {shared} tokens")
    cache.wipe()
    engine.generate(first, 1)
    warm = Tiers(setup, "G1 G2 G3 G4" if has_bucket else "G1 G2 G3")
    store = warm.store
    shared_keys = store.keys(first)[:num_blocks]
    blocks = cache.physical_blocks(range(num_blocks))
    stored = store.offload(shared_keys, g1, blocks).wait()
    flushed = store.flush()
    progress.say(f"stored {stored.written} blocks, {flushed.failed} failed")

    runner.run("G1", store)
    # Blocks that nobody will ask for push the shared ones out of device memory.
    filler = store.keys(np.arange(shared, dtype=np.uint32))
    store.offload(filler, g1, blocks).wait()
    runner.run("G2", store)
    store.flush()
    warm.close()
    progress.say("a new store over the same file")
    cold = Tiers(setup, "G2 G3")
    runner.run("G3", cold.store)
    cold.close()
    if has_bucket:
        progress.say("a new store over the same bucket")
        far = Tiers(setup, "G2 G4")
        runner.run("G4", far.store)
        far.store.erase([*shared_keys, *filler])  # the bucket may be somebody's
        far.close()


def run(
    folder: Path,
    backend: Backend,
    tiny: bool,
    num_tokens: int,
    num_generated: int,
    model: Any = None,
) -> Results:
    """The whole of it, in one process that forgets between the tiers.

    @param model  placed; None: it is loaded
    """
    progress = Progress("prefix")
    first, second, shared = make_prompts(tiny, num_tokens)
    with Bucket() as bucket:
        if model is None:
            progress.say("loading the model")
            model = backend.place(load_model(tiny))
        bucket.wait()
        progress.say(bucket.why)
        shape = model.shape
        config = tiers.block_config(
            shared // BLOCK_TOKENS, shape.num_layers, shape.num_kv_heads, shape.head_dim
        )
        fingerprint = kvbm.model_fingerprint(
            "random weights" if tiny else MODEL_NAME, "float32", config
        )
        manager = backend.new_manager()
        cache = backend.engine_cache(
            manager,
            shape.num_layers,
            shape.num_kv_heads,
            shape.head_dim,
            (num_tokens + num_generated) // BLOCK_TOKENS + 1,
            PREFILL_SEED,
        )
        g1 = tiers.register_cache(manager, cache)
        engine = Engine(model, cache, chunk_tokens=CHUNK_TOKENS)
        progress.say(f"the second prompt without anything: {len(second)} tokens")
        runner = Runner(engine, cache, g1, second, num_generated)
        setup = Setup(manager, fingerprint, config, folder, bucket)
        visit(setup, runner, engine, cache, g1, first, progress)
        return summary(config, backend, tiny, len(second), bucket, runner.rows)


def summary(
    config: kvbm.LayoutConfig,
    backend: Backend,
    tiny: bool,
    num_tokens: int,
    bucket: Bucket,
    rows: list[Row],
) -> Results:
    """What `--json` prints; rates in bytes per second, times in seconds."""
    block_bytes = config.block_bytes
    return {
        "model": "random weights" if tiny else MODEL_NAME,
        "device": backend.name,
        "prompt_tokens": num_tokens,
        "shared_tokens": config.num_blocks * BLOCK_TOKENS,
        "block_bytes": block_bytes,
        "objects": bucket.why,
        "rows": [
            {
                **asdict(row),
                "rate": row.blocks_hit * block_bytes / row.onboard_seconds
                if row.onboard_seconds > 0
                else 0.0,
            }
            for row in rows
        ],
        "passed": all(row.same_tokens for row in rows)
        and all(row.blocks_hit == config.num_blocks for row in rows[1:]),
    }


def table(result: Results) -> str:
    """The result for people."""
    tiers_shown = [row["tier"] for row in result["rows"]]
    lines = [["tier", "blocks hit", "GB/s", "onboard, ms", "first token, s", "prefilled", "tokens"]]
    for row in result["rows"]:
        is_hit = row["tier"] != "none"
        lines.append(
            [
                row["tier"],
                str(row["blocks_hit"]),
                f"{row['rate'] / 1e9:.2f}" if is_hit else "",
                f"{row['onboard_seconds'] * 1e3:.1f}" if is_hit else "",
                f"{row['time_to_first_token']:.3f}",
                str(row["prefilled_tokens"]),
                "same" if row["same_tokens"] else "DIFFER",
            ]
        )
    return "\n".join(
        [
            f"{result['model']} on {result['device']}: a second prompt of "
            f"{result['prompt_tokens']} tokens shares the first {result['shared_tokens']} with "
            f"one before it ({result['block_bytes'] / 1024:.0f} KiB a block)",
            "",
            *reports.rows(lines, {1, 2, 3, 4, 5}),
            f"G4 is {result['objects']}" if "G4" in tiers_shown else result["objects"],
            "",
            "everything is equal" if result["passed"] else "SOMETHING DIFFERS: see above",
        ]
    )
