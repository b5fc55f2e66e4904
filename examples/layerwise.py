# SPDX-License-Identifier: Apache-2.0
"""Layer by layer from Python: offload layer i while the model computes layer i + 1, and back.

usage: layerwise.py [--device cuda|host]      default: cuda where there is one

With cuda the model is torch's, on a torch stream, and its KV cache are torch tensors that kvbm
moves in place; with host it is numpy's on the stream of an emulated device. In both the order is
kept by events alone: nobody waits on the CPU between two layers.

That a transfer of layer i needs no more than layer i is proved by making the model wait for it:
the computation of layer i + 1 does not end before the transfer has. Everything runs once without
that before, because a GPU loads kernels and gets memory when they are needed first, and then waits
for all streams.

exit status: 0 everything is equal, 1 something differs, 2 no such device
"""

from __future__ import annotations

import argparse
import sys
import threading
from typing import Any, Protocol

import numpy as np

import kvbm_cpp as kvbm

LAYERS, BLOCKS, TOKENS, HEADS, HEAD_DIM = 6, 24, 16, 4, 64
SHAPE = (2, BLOCKS, TOKENS, HEADS, HEAD_DIM)

#: Longer than anything but a deadlock takes.
PATIENCE = 60.0


class Engine(Protocol):
    """A model with a paged KV cache, one tensor [2, blocks, tokens, heads, head_dim] a layer."""

    manager: kvbm.TransferManager
    #: What kvbm takes as the model's stream.
    stream: Any

    def cache_layout(self) -> kvbm.PhysicalLayout: ...
    def compute(self, layer: int) -> None:
        """Enqueues the layer's forward pass over the prompt, which writes its K and V."""

    def read(self, layer: int) -> None:
        """Enqueues a pass that reads the layer's K and V, and keeps what it saw."""

    def recorded_event(self) -> Any:
        """An event behind everything that is enqueued."""

    def enqueue(self, wait: Any) -> None:
        """Enqueues a function of the CPU."""

    def synchronize(self) -> None: ...
    def wipe_cache(self) -> None: ...
    def cache_is_right(self) -> bool: ...
    def read_is_right(self) -> bool: ...


class TorchEngine:
    """The model in torch on a GPU."""

    def __init__(self, device_id: int = 0):
        import torch

        self._torch = torch
        device = torch.device("cuda", device_id)
        self.manager = kvbm.TransferManager(cuda_device_id=device_id)
        self.stream = torch.cuda.Stream(device)
        # Kept: dropping it would wait for what was enqueued through it.
        self._host_work = kvbm.wrap_cuda_stream(self.stream)
        random = torch.Generator(device).manual_seed(1)
        width = HEADS * HEAD_DIM
        self._prompt = torch.randn(BLOCKS * TOKENS, width, generator=random, device=device)
        self._weights = [
            torch.randn(width, 2 * width, generator=random, device=device) * width**-0.5
            for _ in range(LAYERS)
        ]
        make = {"dtype": torch.bfloat16, "device": device}
        self._cache = [torch.zeros(SHAPE, **make) for _ in range(LAYERS)]
        self._seen = [torch.zeros(SHAPE, **make) for _ in range(LAYERS)]
        with torch.cuda.stream(self.stream):
            self.stream.wait_stream(torch.cuda.default_stream(device))
            for layer in range(LAYERS):
                self.compute(layer)
            self._truth = [tensor.clone() for tensor in self._cache]
        self.stream.synchronize()

    def cache_layout(self) -> kvbm.PhysicalLayout:
        return kvbm.layout_from_tensors(self.manager, self._cache, kvbm.EngineDims.FLASH_ATTN)

    def compute(self, layer: int) -> None:
        with self._torch.cuda.stream(self.stream):
            hidden = self._torch.tanh(self._prompt @ self._weights[layer])
            keys_values = hidden.reshape(BLOCKS, TOKENS, 2, HEADS, HEAD_DIM)
            self._cache[layer].copy_(keys_values.permute(2, 0, 1, 3, 4))

    def read(self, layer: int) -> None:
        with self._torch.cuda.stream(self.stream):
            self._seen[layer].copy_(self._cache[layer])

    def recorded_event(self) -> Any:
        event = self._torch.cuda.Event()
        event.record(self.stream)
        return event

    def enqueue(self, wait: Any) -> None:
        self._host_work.enqueue(wait)

    def synchronize(self) -> None:
        self.stream.synchronize()

    def wipe_cache(self) -> None:
        with self._torch.cuda.stream(self.stream):
            for tensor in (*self._cache, *self._seen):
                tensor.fill_(float("nan"))
        self.stream.synchronize()

    def _are_equal(self, found: list[Any]) -> bool:
        self._torch.cuda.synchronize()
        return all(map(self._torch.equal, found, self._truth))

    def cache_is_right(self) -> bool:
        return self._are_equal(self._cache)

    def read_is_right(self) -> bool:
        return self._are_equal(self._seen)


class HostEngine:
    """The model in numpy on an emulated device."""

    def __init__(self) -> None:
        self.manager = kvbm.TransferManager()
        device = self.manager.device(0)
        self._device = device
        self.stream = device.create_stream("model")
        random = np.random.default_rng(1)
        width = HEADS * HEAD_DIM
        self._prompt = random.standard_normal((BLOCKS * TOKENS, width), np.float32)
        self._weights = [
            random.standard_normal((width, 2 * width), np.float32) * np.float32(width**-0.5)
            for _ in range(LAYERS)
        ]
        self._cache = [device.empty(SHAPE, np.float16) for _ in range(LAYERS)]
        self._seen = [device.empty(SHAPE, np.float16) for _ in range(LAYERS)]
        for layer in range(LAYERS):
            self._compute(layer)
        self._truth = [tensor.copy() for tensor in self._cache]

    def cache_layout(self) -> kvbm.PhysicalLayout:
        dims = kvbm.EngineDims.FLASH_ATTN
        return kvbm.layout_from_tensors(self.manager, self._cache, dims, device_id=0)

    def _compute(self, layer: int) -> None:
        hidden = np.tanh(self._prompt @ self._weights[layer])
        keys_values = hidden.reshape(BLOCKS, TOKENS, 2, HEADS, HEAD_DIM)
        self._cache[layer][...] = keys_values.transpose(2, 0, 1, 3, 4)

    def compute(self, layer: int) -> None:
        self.stream.enqueue(lambda: self._compute(layer))

    def read(self, layer: int) -> None:
        self.stream.enqueue(lambda: np.copyto(self._seen[layer], self._cache[layer]))

    def recorded_event(self) -> Any:
        event = self._device.create_event()
        self.stream.record(event)
        return event

    def enqueue(self, wait: Any) -> None:
        self.stream.enqueue(wait)

    def synchronize(self) -> None:
        self.stream.synchronize()

    def wipe_cache(self) -> None:
        for tensor in (*self._cache, *self._seen):
            tensor[...] = np.nan

    def cache_is_right(self) -> bool:
        return all(map(np.array_equal, self._cache, self._truth))

    def read_is_right(self) -> bool:
        return all(map(np.array_equal, self._seen, self._truth))


class Pipeline:
    """Moves an engine's blocks to pinned memory and back, a layer at a time."""

    def __init__(self, engine: Engine):
        self._engine = engine
        manager = engine.manager
        layout = engine.cache_layout()
        self._cache = manager.register_layout(layout)
        self._pinned = manager.register_layout(
            manager.layout_builder()
            .config(layout.config)
            .fully_contiguous(kvbm.KvBlockLayout.UniversalTP)
            .allocate_pinned()
            .build()
        )
        self._there = np.arange(BLOCKS, dtype=np.uint32)
        self._here = np.random.default_rng(2).permutation(BLOCKS).astype(np.uint32)
        #: Whether the model's layers wait for latches, and whether each opened in time.
        self.held = False
        self.in_time = True

    def _hold(self, latch: threading.Event) -> None:
        """What is enqueued next on the model's stream runs when the latch is open."""

        def wait() -> None:
            self.in_time = latch.wait(PATIENCE) and self.in_time

        if self.held:
            self._engine.enqueue(wait)

    def _opened_by(self, done: kvbm.TransferCompleteNotification) -> threading.Event:
        latch = threading.Event()
        done.then(lambda _: latch.set())
        return latch

    def offload(self) -> None:
        """Computes the layers; each leaves as soon as it is there, and the model goes on."""
        engine, transfers = self._engine, []
        for layer in range(LAYERS):
            engine.compute(layer)
            if transfers:
                self._hold(self._opened_by(transfers[-1]))
            options = kvbm.TransferOptions(
                layer_range=(layer, layer + 1), wait_for=[engine.recorded_event()]
            )
            transfers.append(
                engine.manager.execute_transfer(
                    self._cache, self._here, self._pinned, self._there, options
                )
            )
        kvbm.TransferCompleteNotification.aggregate(transfers).wait(PATIENCE)

    def _fetch(self, layer: int) -> kvbm.TransferCompleteNotification:
        """Brings a layer back; what is enqueued on the model's stream afterwards waits for it."""
        options = kvbm.TransferOptions(
            layer_range=(layer, layer + 1), record_on=[self._engine.stream]
        )
        return self._engine.manager.execute_transfer(
            self._pinned, self._there, self._cache, self._here, options
        )

    def onboard(self) -> None:
        """Reads the layers; each one's blocks arrive while the model reads the one before."""
        transfers = [self._fetch(0)]
        for layer in range(LAYERS):
            self._engine.read(layer)
            if layer + 1 == LAYERS:
                break
            latch = threading.Event()
            self._hold(latch)
            transfers.append(self._fetch(layer + 1))
            transfers[-1].then(lambda _, latch=latch: latch.set())
        kvbm.TransferCompleteNotification.aggregate(transfers).wait(PATIENCE)
        self._engine.synchronize()


def run(engine: Engine) -> dict[str, bool]:
    """Offloads and onboards; every claim, and whether it holds."""
    pipeline = Pipeline(engine)
    pipeline.offload()
    pipeline.onboard()
    engine.wipe_cache()
    pipeline.held = True
    pipeline.offload()
    computed = engine.cache_is_right()
    engine.wipe_cache()
    wiped = not engine.cache_is_right()
    pipeline.onboard()
    return {
        "computed": computed,
        "wiped in between": wiped,
        "blocks came back": engine.cache_is_right(),
        "the model read them": engine.read_is_right(),
        "transfers and model side by side": pipeline.in_time,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Moves KV blocks layer by layer beside a model.")
    default = "host" if kvbm.cuda_unavailable_reason() else "cuda"
    parser.add_argument("--device", choices=("cuda", "host"), default=default)
    given = parser.parse_args(arguments)
    if given.device == "cuda" and kvbm.cuda_unavailable_reason():
        print(f"no CUDA device: {kvbm.cuda_unavailable_reason()}", file=sys.stderr)
        return 2
    engine = TorchEngine() if given.device == "cuda" else HostEngine()
    with engine.manager as manager:
        claims = run(engine)
        print(f"{LAYERS} layers on {manager.device(0).name}")
    for claim, holds in claims.items():
        print(f"{claim:<34}{'ok' if holds else 'NO'}")
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
