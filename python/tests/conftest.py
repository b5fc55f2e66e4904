# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a manager with one emulated device, and helpers to make and read layouts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support import Gate, require_cuda_module

import kvbm_cpp as kvbm


@pytest.fixture
def manager() -> Iterator[kvbm.TransferManager]:
    with kvbm.TransferManager(
        host_devices=2, host_device_bytes=64 << 20, cuda_pool_reserve_size=0, copy_threads=2
    ) as made:
        yield made


@pytest.fixture
def gate(manager: kvbm.TransferManager) -> Iterator[Gate]:
    """Holds transfers back: those that wait for gate.event stay pending until gate.open()."""
    device = manager.device(0)
    stream = device.create_stream("gate")
    event = device.create_event()
    opened = threading.Event()
    stream.enqueue(opened.wait)
    stream.record(event)
    gate = Gate(event, opened)
    yield gate
    gate.open()
    stream.synchronize()


@pytest.fixture(scope="module")
def torch() -> Any:
    return require_cuda_module("torch")


@pytest.fixture(scope="module")
def cupy() -> Any:
    return require_cuda_module("cupy")


@pytest.fixture
def cuda_manager() -> Iterator[kvbm.TransferManager]:
    if reason := kvbm.cuda_unavailable_reason():
        pytest.skip(f"no CUDA device: {reason}")
    with kvbm.TransferManager(cuda_device_id=0, copy_threads=2) as made:
        yield made
