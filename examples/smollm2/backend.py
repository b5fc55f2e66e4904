# SPDX-License-Identifier: Apache-2.0
"""Where the demo's engine runs: numpy beside an emulated device, or torch on a GPU."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import kvbm_cpp as kvbm
import numpy as np

from model import Model, ModelShape, open_gguf
from paged_cache import PagedCache

#: The architecture of SmolLM2 in small, for random weights.
TINY = ModelShape(
    num_layers=6,
    hidden=288,
    feed_forward=768,
    num_heads=9,
    num_kv_heads=3,
    head_dim=32,
    vocab_size=4096,
    context_length=8192,
    rope_base=100000.0,
    norm_eps=1e-5,
)
TINY_SEED = 20
MODEL_NAME = "SmolLM2-135M-Instruct"

#: Plain copies of the same bytes: how they are made, and the call.
Copies = dict[str, Callable[[], object]]


class BackendError(Exception):
    """The backend that was asked for cannot work here."""


def load_model(tiny: bool, reader: Any = None) -> Model:
    """SmolLM2 from its GGUF file, or random weights that are the same in every process."""
    if tiny:
        return Model.random(TINY, TINY_SEED)
    return Model.load(open_gguf() if reader is None else reader)


class Backend(Protocol):
    """What the processes of the demo need of a device."""

    #: How the table calls G1.
    name: str

    def new_manager(self, **options: Any) -> kvbm.TransferManager:
        """@param options  more keywords of TransferManager"""

    def place(self, model: Model) -> Any:
        """The model where the backend computes."""

    def engine_cache(
        self,
        manager: kvbm.TransferManager,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        num_blocks: int,
        shuffle_seed: int,
    ) -> PagedCache:
        """A paged cache in device memory; the block table is shuffled by the seed."""

    def plain_copies(
        self, num_bytes: int, to_host: bool
    ) -> contextlib.AbstractContextManager[Copies]: ...


class HostBackend:
    """numpy, and one emulated device, large enough for the engine's cache."""

    name = "device"

    def new_manager(self, **options: Any) -> kvbm.TransferManager:
        return kvbm.TransferManager(host_devices=1, host_device_bytes=2 << 30, **options)

    def place(self, model: Model) -> Model:
        return model

    def engine_cache(
        self,
        manager: kvbm.TransferManager,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        num_blocks: int,
        shuffle_seed: int,
    ) -> PagedCache:
        device = manager.device(0)
        return PagedCache(
            num_layers,
            num_kv_heads,
            head_dim,
            num_blocks,
            allocate=lambda shape, dtype: device.empty(shape, dtype),
            shuffle_seed=shuffle_seed,
        )

    @contextlib.contextmanager
    def plain_copies(self, num_bytes: int, to_host: bool) -> Iterator[Copies]:
        """memcpy, by one thread and by one per CPU."""
        source, target = np.ones(num_bytes, np.uint8), np.zeros(num_bytes, np.uint8)
        cpus = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(cpus) as pool:

            def copy(threads: int) -> None:
                pieces = zip(
                    np.array_split(target, threads), np.array_split(source, threads), strict=True
                )
                list(pool.map(lambda pair: np.copyto(*pair), pieces))

            copy(cpus)  # starts the threads
            yield {
                f"memcpy, {n} thread{'s' if n > 1 else ''}": lambda n=n: copy(n)
                for n in sorted({1, cpus})
            }


class CudaBackend:
    """torch, whose KV cache in HBM kvbm moves in place."""

    def __init__(self, device_id: int = 0):
        if reason := kvbm.cuda_unavailable_reason():
            raise BackendError(
                f"no CUDA device: {reason}. Without --device the demo runs on the CPU"
            )
        try:
            import torch
        except ModuleNotFoundError:
            raise BackendError("--device cuda needs torch, which is not installed") from None
        if not torch.cuda.is_available():
            raise BackendError(f"torch {torch.__version__} does not see the CUDA device")
        self._torch = torch
        self._device_id = device_id
        self._device = torch.device("cuda", device_id)
        self.name = torch.cuda.get_device_name(self._device)

    def new_manager(self, **options: Any) -> kvbm.TransferManager:
        return kvbm.TransferManager(cuda_device_id=self._device_id, **options)

    def place(self, model: Model) -> Any:
        from torch_model import TorchModel

        placed = TorchModel(model, self._device)
        placed.warm_up()
        return placed

    def engine_cache(
        self,
        manager: kvbm.TransferManager,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        num_blocks: int,
        shuffle_seed: int,
    ) -> PagedCache:
        from torch_model import TorchPagedCache

        return TorchPagedCache(
            num_layers,
            num_kv_heads,
            head_dim,
            num_blocks,
            device=self._device,
            shuffle_seed=shuffle_seed,
        )

    @contextlib.contextmanager
    def plain_copies(self, num_bytes: int, to_host: bool) -> Iterator[Copies]:
        """One cudaMemcpyAsync between HBM and pinned memory."""
        torch = self._torch
        host = torch.ones(num_bytes, dtype=torch.uint8, pin_memory=True)
        device = torch.zeros(num_bytes, dtype=torch.uint8, device=self._device)
        target, source = (host, device) if to_host else (device, host)

        def copy() -> None:
            target.copy_(source, non_blocking=True)
            torch.cuda.synchronize(self._device)

        copy()
        yield {"cudaMemcpy, one piece": copy}


def make_backend(device: str) -> Backend:
    """@param device  "cpu" or "cuda"; @raise BackendError where that cannot work"""
    return CudaBackend() if device == "cuda" else HostBackend()
