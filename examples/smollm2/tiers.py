# SPDX-License-Identifier: Apache-2.0
"""The three tiers of the demo as kvbm layouts, and timed hops between them.

G1  device memory (emulated, or HBM), the engine's paged tensors: one a layer, block second, NHD
G2  pinned memory, fully contiguous, UniversalTP
G3  a file, fully contiguous, UniversalTP
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import kvbm_cpp as kvbm
import numpy as np

from paged_cache import BLOCK_TOKENS, PagedCache

NHD = kvbm.KvBlockLayout.OperationalNHD
UNIVERSAL_TP = kvbm.KvBlockLayout.UniversalTP
STORE_NAME = "kv.store"

#: How often a hop runs, and the plain copy that it is compared with; the best time counts.
REPEATS = 5


@dataclass(frozen=True)
class Hop:
    """One leg of a block's way beside the plain way of the same bytes; best times of REPEATS."""

    name: str
    blocks: int
    bytes: int
    seconds: float
    limit_seconds: float
    limit_how: str


def block_config(
    num_blocks: int, num_layers: int, num_kv_heads: int, head_dim: int
) -> kvbm.LayoutConfig:
    """The logical shape of the demo's blocks: float32, K and V apart, 16 tokens."""
    return kvbm.LayoutConfig(
        num_blocks=num_blocks,
        num_layers=num_layers,
        outer_dim=2,
        page_size=BLOCK_TOKENS,
        inner_dim=num_kv_heads * head_dim,
        num_heads=num_kv_heads,
        dtype_width_bytes=np.dtype(np.float32).itemsize,
    )


def register_cache(
    manager: kvbm.TransferManager, cache: PagedCache, device_id: int = 0
) -> kvbm.LayoutHandle:
    """Makes the engine's own tensors a layout, without a copy."""
    config = block_config(cache.num_blocks, cache.num_layers, cache.num_kv_heads, cache.head_dim)
    return manager.register_layout(
        manager.layout_builder()
        .config(config)
        .layer_separate(kvbm.BlockDimension.Second, NHD)
        .with_external_device_regions(cache.layers, device_id=device_id)
        .build()
    )


def register_pinned(manager: kvbm.TransferManager, config: kvbm.LayoutConfig) -> kvbm.LayoutHandle:
    """Pinned memory for whole blocks."""
    return manager.register_layout(
        manager.layout_builder()
        .config(config)
        .fully_contiguous(UNIVERSAL_TP)
        .allocate_pinned()
        .build()
    )


def create_store(
    manager: kvbm.TransferManager, config: kvbm.LayoutConfig, folder: Path
) -> kvbm.LayoutHandle:
    """A new file for whole blocks."""
    return manager.register_layout(
        manager.layout_builder()
        .config(config)
        .fully_contiguous(UNIVERSAL_TP)
        .allocate_disk(folder / STORE_NAME)
        .build()
    )


def open_store(manager: kvbm.TransferManager, folder: Path) -> kvbm.LayoutHandle:
    """The file of an earlier process, beside other readers."""
    return manager.register_layout(manager.open_disk(folder / STORE_NAME, read_only=True))


def repeat(*runs: Callable[[], object]) -> list[float]:
    """Runs each REPEATS times, in turns, and returns the best seconds of each.

    In turns, because other work on the machine then slows all of them alike.
    """
    best = [float("inf")] * len(runs)
    for _ in range(REPEATS):
        for index, run in enumerate(runs):
            begin = time.perf_counter()
            run()
            best[index] = min(best[index], time.perf_counter() - begin)
    return best


def move(
    manager: kvbm.TransferManager,
    src: kvbm.LayoutHandle,
    src_blocks: Sequence[int],
    dst: kvbm.LayoutHandle,
    dst_blocks: Sequence[int],
    options: kvbm.TransferOptions | None = None,
) -> list[kvbm.FailedBlock]:
    """Moves blocks and waits; returns those that were refused as damaged.

    Any other failure is raised: only damage is something that prefilling a block again can mend.
    """
    done = manager.execute_transfer(src, src_blocks, dst, dst_blocks, options)
    try:
        done.wait()
    except kvbm.CorruptError:
        failed = done.failed_blocks()
        for block in failed:
            if not isinstance(block.error, kvbm.CorruptError):
                raise block.error from None
        return failed
    return []


def flip_one_bit(folder: Path, block: int) -> int:
    """Damages one block of the store, as a failing disk would; returns the offset in the file."""
    layout = kvbm.PhysicalLayout.open_disk(folder / STORE_NAME, read_only=True)
    view = layout.block_view(block)
    offset = layout.regions[0].file_offset + view.offset + view.bytes // 2
    del layout
    with (folder / STORE_NAME).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x01]))
    return offset
