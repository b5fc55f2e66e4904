# SPDX-License-Identifier: Apache-2.0
"""A worker process of the tests: obeys what comes over a connection until that closes.

usage: remote_worker.py FD     FD is a connected socket

Every message is (name, arguments, keywords) of a method of Worker, every answer (True, result) or
(False, error). A worker whose test has ended sees the connection close, and ends.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kvbm_cpp as kvbm

Ids = Sequence[int]


class WorkerError(Exception):
    """An error of kvbm in a worker: its class and its message."""

    def __init__(self, kind: str, message: str):
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_kib() -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmRSS"):
                return int(line.split()[1])
    raise AssertionError("no VmRSS")


class Worker:
    """One process's manager, its layouts by name, and the transfers that it started."""

    def __init__(self) -> None:
        self.manager: kvbm.TransferManager = None  # type: ignore[assignment]
        self.layouts: dict[str, kvbm.LayoutHandle] = {}
        self.pending: dict[str, kvbm.TransferCompleteNotification] = {}
        self.notices: dict[str, kvbm.WriteNotices] = {}
        self.called: list[tuple[int, int]] = []
        self.exchange: kvbm.MetadataExchange = None  # type: ignore[assignment]
        self.shape: dict[str, Any] = {}

    def open(self, **keywords: Any) -> int:
        """Makes the manager; returns its worker id."""
        self.layouts, self.pending, self.notices, self.called = {}, {}, {}, []
        self.manager = kvbm.TransferManager(
            host_device_bytes=64 << 20,
            cuda_pool_reserve_size=0,
            copy_threads=1,
            nixl_backends=["ucx"],
            **{"landing_bytes": 4 << 20, "remote_timeout": 20.0, **keywords},
        )
        return self.manager.worker_id

    def close(self) -> None:
        self.manager.close()

    def pid(self) -> int:
        return os.getpid()

    def add(
        self,
        name: str,
        shape: dict[str, Any],
        format: str = "UniversalTP",
        storage: str = "system",
        separate: bool = False,
    ) -> kvbm.LayoutHandle:
        """Registers a layout under a name."""
        config = kvbm.LayoutConfig(**shape)
        kv = getattr(kvbm.KvBlockLayout, format)
        builder = self.manager.layout_builder().config(config)
        if separate:
            builder = builder.layer_separate(kvbm.BlockDimension.Second, kv)
        else:
            builder = builder.fully_contiguous(kv)
        if storage == "system":
            builder = builder.allocate_system()
        elif storage == "pinned":
            builder = builder.allocate_pinned()
        else:
            builder = builder.allocate_device(0)
        self.layouts[name] = self.manager.register_layout(builder.build())
        return self.pack(self.layouts[name])

    @staticmethod
    def pack(handle: kvbm.LayoutHandle) -> Any:
        return handle.to_u128()

    def handle(self, name: str | int) -> kvbm.LayoutHandle:
        """A layout of this worker by name, or any by its bits."""
        return kvbm.LayoutHandle.from_u128(name) if isinstance(name, int) else self.layouts[name]

    def remove(self, name: str) -> None:
        self.manager.unregister_layout(self.layouts[name])
        del self.layouts[name]

    def fill(self, name: str, ids: Ids, seed: int) -> None:
        pattern = kvbm.FillPattern(kvbm.FillPattern.Kind.Hashed, seed)
        self.manager.fill_blocks(self.handle(name), ids, pattern)

    def checksums(self, name: str, ids: Ids) -> list[str]:
        return [str(sum) for sum in self.manager.block_checksums(self.handle(name), ids)]

    def _scratch(self, count: int, of: kvbm.LayoutConfig) -> kvbm.PhysicalLayout:
        config = kvbm.LayoutConfig(
            num_blocks=count,
            num_layers=of.num_layers,
            outer_dim=of.outer_dim,
            page_size=of.page_size,
            inner_dim=of.inner_dim,
            dtype_width_bytes=of.dtype_width_bytes,
            num_heads=of.num_heads,
        )
        return (
            self.manager.layout_builder()
            .config(config)
            .fully_contiguous(kvbm.KvBlockLayout.UniversalTP)
            .allocate_system()
            .build()
        )

    def tensor(self, name: str, ids: Ids) -> NDArray[Any]:
        """Blocks as [block, head, layer, outer, token, bytes of a head]."""
        handle = self.handle(name)
        config = self.manager.layout(handle).config
        if config.num_heads is None:
            raise AssertionError("heads unknown")
        scratch = self._scratch(len(ids), config)
        into = self.manager.register_layout(scratch)
        try:
            self.manager.execute_transfer(handle, ids, into, range(len(ids))).wait()
        finally:
            self.manager.unregister_layout(into)
        head_bytes = config.inner_dim // config.num_heads * config.dtype_width_bytes
        axes = (len(ids), config.num_heads, config.num_layers, config.outer_dim, config.page_size)
        return np.array(scratch.regions[0].numpy((*axes, head_bytes), np.uint8))

    def put(self, name: str, ids: Ids, tensor: NDArray[Any]) -> None:
        """The reverse of tensor()."""
        handle = self.handle(name)
        scratch = self._scratch(len(ids), self.manager.layout(handle).config)
        scratch.regions[0].numpy(tensor.shape, np.uint8)[...] = tensor
        source = self.manager.register_layout(scratch)
        try:
            self.manager.execute_transfer(source, range(len(ids)), handle, ids).wait()
        finally:
            self.manager.unregister_layout(source)

    def export(self, names: Sequence[str] | None = None) -> bytes:
        if names is None:
            return self.manager.export_metadata().to_bytes()
        return self.manager.export_metadata([self.layouts[name] for name in names]).to_bytes()

    def meet(self, metadata: bytes) -> int:
        return self.manager.import_metadata(metadata)

    def part(self, worker_id: int) -> None:
        self.manager.unimport_worker(worker_id)

    def imported(self) -> tuple[list[int], list[int]]:
        handles = [handle.to_u128() for handle in self.manager.imported_handles]
        return list(self.manager.imported_workers), handles

    def ways(self) -> list[str]:
        return [self.manager.how_reached(handle) for handle in self.manager.imported_handles]

    def resolve(self, worker_id: int, tier: str) -> Any:
        return self.manager.resolve(worker_id, tier).to_u128()

    def begin(
        self,
        key: str,
        src: str | int,
        src_ids: Ids,
        dst: str | int,
        dst_ids: Ids,
        **options: Any,
    ) -> None:
        """Starts a transfer that wait() waits for."""
        self.pending[key] = self.manager.execute_transfer(
            self.handle(src), src_ids, self.handle(dst), dst_ids, kvbm.TransferOptions(**options)
        )

    def wait(self, key: str, timeout: float = 60.0) -> None:
        self.pending.pop(key).wait(timeout)

    def is_ready(self, key: str) -> bool:
        return self.pending[key].is_ready()

    def move(
        self, src: str | int, src_ids: Ids, dst: str | int, dst_ids: Ids, **options: Any
    ) -> None:
        self.begin("move", src, src_ids, dst, dst_ids, **options)
        self.wait("move")

    def await_free(self, src: str | int, src_ids: Ids, dst: str, dst_ids: Ids) -> None:
        """Moves blocks as soon as no transfer that was given up can touch them any more."""
        deadline = time.monotonic() + 40.0
        while True:
            try:
                return self.move(src, src_ids, dst, dst_ids)
            except (kvbm.BusyError, kvbm.PeerLostError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def await_refusal(self, src: str | int, src_ids: Ids, dst: str | int, dst_ids: Ids) -> None:
        """Moves blocks until that fails: news of a peer are on their way. @raise that error"""
        deadline = time.monotonic() + 20.0
        while time.monotonic() < deadline:
            self.move(src, src_ids, dst, dst_ids)

    def explain(
        self, src: str | int, src_ids: Ids, dst: str | int, dst_ids: Ids, **options: Any
    ) -> tuple[str, int, str]:
        told = self.manager.explain_transfer(
            self.handle(src), src_ids, self.handle(dst), dst_ids, kvbm.TransferOptions(**options)
        )
        return told.strategy.name, told.total_bytes, str(told)

    def subscribe(self, key: str) -> None:
        self.notices[key] = self.manager.subscribe_write_notifications()

    def next(self, key: str, timeout: float = 20.0) -> tuple[int, int] | None:
        notification = self.notices[key].next(timeout)
        return notification and (notification.worker_id, notification.value)

    def call_back(self, key: str) -> None:
        """Collects what one subscription's callback receives."""
        self.arrived = threading.Condition()

        def note(notification: kvbm.WriteNotification) -> None:
            with self.arrived:
                self.called.append((notification.worker_id, notification.value))
                self.arrived.notify_all()

        self.notices[key].on_each(note)

    def called_back(self, count: int) -> list[tuple[int, int]]:
        with self.arrived:
            self.arrived.wait_for(lambda: len(self.called) >= count, 20.0)
            return list(self.called)

    def unsubscribe(self, key: str) -> None:
        del self.notices[key]

    def stats(self) -> dict[str, int]:
        stats = self.manager.remote_stats
        return {name: getattr(stats, name) for name in dir(stats) if not name.startswith("_")}

    def await_stats(self, **expected: int) -> None:
        """Waits until these counts are so; messages of peers change them."""
        deadline = time.monotonic() + 20.0
        while any(self.stats()[name] != value for name, value in expected.items()):
            assert time.monotonic() < deadline, f"{self.stats()}, not {expected}"
            time.sleep(0.001)

    def usage(self) -> tuple[int, int, int]:
        """Descriptors, threads, and KiB of memory of this process."""
        return descriptors(), threads(), resident_kib()

    def join(self, kind: str, *arguments: Any, **keywords: Any) -> str:
        """Opens an exchange of metadata; returns its address where it has one."""
        self.exchange = getattr(kvbm.MetadataExchange, kind)(*arguments, **keywords)
        return self.exchange.address if isinstance(self.exchange, kvbm.TcpExchange) else ""

    def add_peer(self, peer: str) -> None:
        assert isinstance(self.exchange, kvbm.TcpExchange)
        self.exchange.add_peer(peer)

    def publish(self, name: str) -> None:
        self.exchange.publish(name, self.export())

    def withdraw(self, name: str) -> None:
        self.exchange.withdraw(name)

    def meet_by_name(self, name: str) -> int:
        return self.manager.import_metadata(self.exchange.fetch(name, 20.0))

    def names(self) -> list[str]:
        return self.exchange.list()

    def rounds(self, metadata: bytes, count: int) -> None:
        """Imports and unimports a worker so often, with a read in between."""
        for _ in range(count):
            worker_id = self.manager.import_metadata(metadata)
            source = self.manager.resolve(worker_id, "G2")
            self.manager.execute_transfer(source, [0], self.layouts["g2"], [0]).wait(20.0)
            self.manager.unimport_worker(worker_id)


def main() -> None:
    connection = Connection(int(sys.argv[1]))
    worker = Worker()
    while True:
        try:
            name, arguments, keywords = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        answer: tuple[bool, Any]
        try:
            answer = (True, getattr(worker, name)(*arguments, **keywords))
        except kvbm.Error as error:
            answer = (False, WorkerError(type(error).__name__, str(error)))
        except Exception as error:
            answer = (False, AssertionError(f"{type(error).__name__} in the worker: {error}"))
        try:
            connection.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    # What travels has to have the same class on both sides.
    import remote_worker

    remote_worker.main()
