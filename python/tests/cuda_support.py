# SPDX-License-Identifier: Apache-2.0
"""What the tests on a GPU need: caches of torch, and streams that can be held back."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray
from support import (
    DTYPES,
    HEAD_DIM,
    HEADS,
    OUTER,
    TOKENS,
    Builder,
    contiguous,
    random_cache,
    universal_tp_array,
    universal_tp_of,
)

import kvbm_cpp as kvbm
from kvbm_cpp import EngineDims

BLOCKS = 6
ALL = list(range(BLOCKS))
SHUFFLED = [4, 0, 5, 2, 1, 3]
SHAPE = (OUTER, BLOCKS, TOKENS, HEADS, HEAD_DIM)
PATIENCE = 60.0


def torch_cache(torch: Any, cache: list[NDArray[Any]], dtype: str = "bfloat16") -> list[Any]:
    """The same bytes as tensors of torch on the GPU."""
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    width = cache[0].itemsize
    signed = np.dtype(f"i{width}") if width > 1 else np.dtype(np.uint8)
    return [
        torch.from_numpy(tensor.view(signed).copy())
        .cuda()
        .to(bits[width])
        .view(getattr(torch, dtype))
        for tensor in cache
    ]


def bits_of(tensor: Any, width: int = 2) -> NDArray[Any]:
    """A torch tensor's elements as unsigned integers on the CPU."""
    import torch

    torch.cuda.synchronize()
    raw = tensor.contiguous().view(torch.uint8).cpu().numpy()
    return raw.view(DTYPES[width])  # type: ignore[no-any-return]


def pinned(manager: kvbm.TransferManager, layout: kvbm.PhysicalLayout) -> kvbm.PhysicalLayout:
    """UniversalTP blocks of the same shape in pinned memory."""
    return contiguous(manager, layout.config, place=Builder.allocate_pinned)


def expect_universal(
    layout: kvbm.PhysicalLayout, cache: list[NDArray[Any]], width: int = 2
) -> None:
    array = universal_tp_array(layout, width)
    for source, destination in zip(ALL, SHUFFLED, strict=True):
        np.testing.assert_array_equal(array[destination], universal_tp_of(cache, source))


def round_trip(
    manager: kvbm.TransferManager,
    layout: kvbm.PhysicalLayout,
    wipe: Any,
    options: kvbm.TransferOptions | None = None,
) -> kvbm.PhysicalLayout:
    """Moves all blocks out, shuffled, wipes the source, and brings them back."""
    target_layout = pinned(manager, layout)
    source, target = manager.register_layout(layout), manager.register_layout(target_layout)
    sums = manager.block_checksums(source, ALL)
    manager.execute_transfer(source, ALL, target, SHUFFLED, options).wait(PATIENCE)
    assert manager.block_checksums(target, SHUFFLED) == sums
    wipe()
    assert manager.block_checksums(source, ALL) != sums
    manager.execute_transfer(target, SHUFFLED, source, ALL, options).wait(PATIENCE)
    assert manager.block_checksums(source, ALL) == sums
    return target_layout


def wiper(torch: Any, tensors: list[Any]) -> Any:
    def wipe() -> None:
        for tensor in tensors:
            tensor.view(torch.uint8).zero_()
        torch.cuda.synchronize()

    return wipe


class CudaGate:
    """Streams of the GPU that it holds go on when it is opened."""

    def __init__(self) -> None:
        self._opened = threading.Event()
        self._held: list[kvbm.Stream] = []

    def hold(self, stream: Any) -> None:
        """What is enqueued next on this stream waits."""
        wrapped = kvbm.wrap_cuda_stream(stream)
        wrapped.enqueue(lambda: self._opened.wait(PATIENCE))
        self._held.append(wrapped)  # dropping it would wait for what it was given

    def open(self) -> None:
        self._opened.set()


class Pair:
    """An engine's cache on the GPU and pinned blocks, both registered and used once before.

    Kernels are loaded and memory is taken when they are needed first; a stream that is held back
    then would hold back everything.
    """

    def __init__(self, manager: kvbm.TransferManager, torch: Any):
        self.manager = manager
        self.torch = torch
        self.cache = random_cache()
        self.source = torch_cache(torch, self.cache)
        self.tensors = [tensor.clone() for tensor in self.source]
        self.layout = kvbm.layout_from_tensors(manager, self.tensors, EngineDims.FLASH_ATTN)
        self.pinned_layout = pinned(manager, self.layout)
        self.engine = manager.register_layout(self.layout)
        self.pinned = manager.register_layout(self.pinned_layout)
        for _ in range(2):
            self.offload().wait(PATIENCE)
            manager.execute_transfer(self.pinned, SHUFFLED, self.engine, ALL).wait(PATIENCE)
        stream = torch.cuda.Stream()
        kvbm.wrap_cuda_stream(stream).enqueue(lambda: None)
        self.write_on(stream)
        self.offload(kvbm.TransferOptions(cuda_stream=stream))
        stream.synchronize()
        self.wipe()

    def offload(
        self, options: kvbm.TransferOptions | None = None
    ) -> kvbm.TransferCompleteNotification:
        return self.manager.execute_transfer(self.engine, ALL, self.pinned, SHUFFLED, options)

    def wipe(self) -> None:
        wiper(self.torch, self.tensors)()
        universal_tp_array(self.pinned_layout)[...] = 0

    def write_on(self, stream: Any) -> None:
        """The engine writes its cache on this stream of torch."""
        with self.torch.cuda.stream(stream):
            for tensor, source in zip(self.tensors, self.source, strict=True):
                tensor.copy_(source)

    def has_arrived(self) -> bool:
        array = universal_tp_array(self.pinned_layout)
        return all(
            np.array_equal(array[destination], universal_tp_of(self.cache, source))
            for source, destination in zip(ALL, SHUFFLED, strict=True)
        )
