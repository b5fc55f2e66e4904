# SPDX-License-Identifier: Apache-2.0
"""What several tests need: layouts of a small shape, and their tensors as numpy sees them."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import kvbm_cpp as kvbm

LAYERS, OUTER, TOKENS, HEADS, HEAD_DIM = 3, 2, 4, 4, 8

#: Unsigned integers of every width: exact for any bits.
DTYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}

UNIVERSAL_TP = kvbm.KvBlockLayout.UniversalTP
NHD = kvbm.KvBlockLayout.OperationalNHD

Builder = kvbm.PhysicalLayoutBuilder


@dataclass
class Gate:
    """An event that is complete once open() was called."""

    event: kvbm.Event
    opened: threading.Event

    def open(self) -> None:
        self.opened.set()


def config(num_blocks: int = 6, width: int = 2, **changes: Any) -> kvbm.LayoutConfig:
    fields: dict[str, Any] = {
        "num_blocks": num_blocks,
        "num_layers": LAYERS,
        "outer_dim": OUTER,
        "page_size": TOKENS,
        "inner_dim": HEADS * HEAD_DIM,
        "dtype_width_bytes": width,
        "num_heads": HEADS,
    }
    fields.update(changes)
    return kvbm.LayoutConfig(**fields)


def contiguous(
    manager: kvbm.TransferManager,
    shape: kvbm.LayoutConfig,
    format: kvbm.KvBlockLayout = UNIVERSAL_TP,
    place: Callable[[Builder], Builder] = Builder.allocate_system,
) -> kvbm.PhysicalLayout:
    return place(manager.layout_builder().config(shape).fully_contiguous(format)).build()


def random_cache(num_blocks: int = 6, width: int = 2, seed: int = 1) -> list[NDArray[Any]]:
    """One block-second NHD tensor [2, num_blocks, TOKENS, HEADS, HEAD_DIM] a layer."""
    rng = np.random.default_rng(seed)
    shape = (OUTER, num_blocks, TOKENS, HEADS, HEAD_DIM)
    dtype = DTYPES[width]
    return [rng.integers(0, np.iinfo(dtype).max, shape, dtype, True) for _ in range(LAYERS)]


def engine_layout(
    manager: kvbm.TransferManager, tensors: list[NDArray[Any]], width: int = 2
) -> kvbm.PhysicalLayout:
    """The engine's tensors as a block-second NHD layout."""
    return (
        manager.layout_builder()
        .config(config(tensors[0].shape[1], width))
        .layer_separate(kvbm.BlockDimension.Second, NHD)
        .with_external_regions(tensors)
        .build()
    )


def universal_tp_of(tensors: list[NDArray[Any]], block: int) -> NDArray[Any]:
    """The oracle: one block as [HEADS, LAYERS, OUTER, TOKENS, HEAD_DIM]."""
    stacked = np.stack([tensor[:, block] for tensor in tensors])  # [nl, no, nt, nh, hd]
    return np.ascontiguousarray(stacked.transpose(3, 0, 1, 2, 4))


def universal_tp_array(layout: kvbm.PhysicalLayout, width: int = 2) -> NDArray[Any]:
    """The memory of a fully contiguous UniversalTP layout, [num_blocks, nh, nl, no, nt, hd]."""
    shape = (layout.config.num_blocks, HEADS, LAYERS, OUTER, TOKENS, HEAD_DIM)
    return layout.regions[0].numpy(shape, DTYPES[width])


def require_cuda_module(name: str) -> Any:
    """A library whose tensors or streams a test takes; skips without a GPU or without it."""
    if reason := kvbm.cuda_unavailable_reason():
        pytest.skip(f"no CUDA device: {reason}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)
