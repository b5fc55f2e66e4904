# SPDX-License-Identifier: Apache-2.0
"""Worker processes as a test sees them, and blobs that lie."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from remote_worker import WorkerError

import kvbm_cpp as kvbm

#: Seconds after which an answer of a worker is late; only reached when something hangs.
PATIENCE = 60.0

#: Small blocks: 3 layers, K and V, 4 tokens, 8 heads of 32 bytes.
SHAPE: dict[str, Any] = {
    "num_blocks": 8,
    "num_layers": 3,
    "outer_dim": 2,
    "page_size": 4,
    "inner_dim": 8 * 16,
    "dtype_width_bytes": 2,
    "num_heads": 8,
}
ALL = list(range(SHAPE["num_blocks"]))

#: Over TCP alone. Beside a GPU NIXL's UCX starts with cuda_copy only.
TCP = "tcp,cuda_copy" if Path("/dev/nvidiactl").exists() else "tcp"
#: How two workers of one machine can reach each other: keywords of the manager, environment.
TRANSPORTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "mapped": ({}, {}),
    "cma": ({"map_peer_memory": False}, {}),
    "tcp": ({"map_peer_memory": False}, {"UCX_TLS": TCP}),
}


def require_nixl() -> None:
    """Skips the test where there is no NIXL."""
    try:
        kvbm.find_nixl()
    except kvbm.UnsupportedError as error:
        pytest.skip(f"no NIXL: {error}")


class Process:
    """A worker process. Methods of remote_worker.Worker can be called on it by name."""

    def __init__(self, prefix: Sequence[str] = (), **environment: str):
        """prefix: a command that runs the worker, such as "ip netns exec NAME"."""
        ours, theirs = socket.socketpair()
        script = Path(__file__).with_name("remote_worker.py")
        with theirs:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-X", "faulthandler", str(script), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "KVBM_LOG": "off", "NIXL_LOG_LEVEL": "FATAL", **environment},
            )
        self.connection = Connection(ours.detach())
        self.id = 0

    def ask(self, name: str, *arguments: Any, **keywords: Any) -> None:
        """Sends a call whose result answer() takes."""
        self.connection.send((name, arguments, keywords))

    def answer(self) -> Any:
        """The result of the last call. @raise WorkerError an error of kvbm in the worker"""
        if not self.connection.poll(PATIENCE):
            raise AssertionError(f"process {self.process.pid} did not answer in {PATIENCE} s")
        good, result = self.connection.recv()
        if good:
            return result
        raise result

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            self.ask(name, *arguments, **keywords)
            return self.answer()

        return call

    def begin_open(self, **keywords: Any) -> None:
        self.ask("open", **keywords)

    def end_open(self) -> Process:
        self.id = self.answer()
        return self

    def start(self, **keywords: Any) -> Process:
        """Makes the manager."""
        self.begin_open(**keywords)
        return self.end_open()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Stops it as SIGSTOP does, and waits until it stands."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Closes the connection, upon which the process ends."""
        self.connection.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError("a worker did not end by itself") from None
        if self.process.returncode not in (0, -signal.SIGKILL):
            raise AssertionError(f"a worker ended with status {self.process.returncode}")


class Crew:
    """The worker processes of a test, all ended with it."""

    def __init__(self) -> None:
        self.members: list[Process] = []

    def hire(self, count: int = 1, transport: str = "mapped", **keywords: Any) -> list[Process]:
        """Starts processes with managers, all at once."""
        manager, environment = TRANSPORTS[transport]
        hired = [Process(**environment) for _ in range(count)]
        self.members += hired
        for process in hired:
            process.begin_open(**{**manager, **keywords})
        return [process.end_open() for process in hired]

    def dismiss(self) -> None:
        problems = []
        for process in self.members:
            try:
                process.end()
            except AssertionError as error:
                problems.append(error)
        if problems:
            raise problems[0]


def fails(kind: str, *words: str) -> Any:
    """Expects an error of kvbm in a worker whose message has these words in this order."""
    return pytest.raises(WorkerError, match=rf"(?s){kind}: .*" + ".*".join(words))


# --- CBOR, as much of it as metadata uses, so that a test can say in it what is not true ---------


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    kind, low = data[at] >> 5, data[at] & 31
    if low < 24:
        return kind, low, at + 1
    size = 1 << (low - 24)
    return kind, int.from_bytes(data[at + 1 : at + 1 + size], "big"), at + 1 + size


def _read(data: bytes, at: int) -> tuple[Any, int]:
    if data[at] in (0xF4, 0xF5, 0xF6):
        return {0xF4: False, 0xF5: True, 0xF6: None}[data[at]], at + 1
    kind, value, at = _head(data, at)
    if kind == 0:
        return value, at
    if kind == 1:
        return -1 - value, at
    if kind == 2:
        return data[at : at + value], at + value
    if kind == 3:
        return data[at : at + value].decode(), at + value
    if kind == 4:
        items = []
        for _ in range(value):
            item, at = _read(data, at)
            items.append(item)
        return items, at
    if kind == 5:
        fields = {}
        for _ in range(value):
            key, at = _read(data, at)
            fields[key], at = _read(data, at)
        return fields, at
    raise AssertionError(f"CBOR kind {kind}")


def _write_head(kind: int, value: int) -> bytes:
    if value < 24:
        return bytes([kind << 5 | value])
    for low, limit in enumerate((1 << 8, 1 << 16, 1 << 32, 1 << 64)):
        if value < limit:
            return bytes([kind << 5 | 24 + low]) + value.to_bytes(1 << low, "big")
    raise AssertionError(value)


def _write(value: Any) -> bytes:
    if value is None or isinstance(value, bool):
        return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[value]
    if isinstance(value, int):
        return _write_head(0, value) if value >= 0 else _write_head(1, -1 - value)
    if isinstance(value, bytes):
        return _write_head(2, len(value)) + value
    if isinstance(value, str):
        return _write_head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return _write_head(4, len(value)) + b"".join(map(_write, value))
    fields = b"".join(_write(key) + _write(item) for key, item in value.items())
    return _write_head(5, len(value)) + fields


PREFIX = struct.Struct("<8sIQ")


def unseal(blob: bytes) -> Any:
    """What a blob of metadata says."""
    _, _, length = PREFIX.unpack_from(blob)
    value, end = _read(blob, PREFIX.size)
    assert end == PREFIX.size + length
    assert seal(blob, value) == blob
    return value


def seal(blob: bytes, value: Any) -> bytes:
    """The same blob saying something else, checksum and all."""
    magic, version, _ = PREFIX.unpack_from(blob)
    body = _write(value)
    sealed = PREFIX.pack(magic, version, len(body)) + body
    return sealed + int(kvbm.checksum_bytes(sealed)).to_bytes(16, "little")
