# SPDX-License-Identifier: Apache-2.0
"""Streams, events, devices and costs as Python sees them, on machines without CUDA too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import Builder, Gate, config, contiguous, engine_layout, random_cache

import kvbm_cpp as kvbm

NO_CUDA = bool(kvbm.cuda_unavailable_reason())
without_cuda = pytest.mark.skipif(not NO_CUDA, reason="this machine has a CUDA device")


class Named:
    """Any object with these attributes."""

    def __init__(self, **attributes: Any):
        self.__dict__.update(attributes)


class CudaCoreStream:
    """A stream that speaks CUDA's protocol."""

    def __init__(self, answer: Any):
        self._answer = answer

    def __cuda_stream__(self) -> Any:
        return self._answer


def nothing(*_: object) -> None:
    """A method of a fake."""


FOREIGN_STREAMS = [
    Named(cuda_stream=4096, device_index=0),
    Named(ptr=4096, wait_event=nothing, device_id=0),
    CudaCoreStream((0, 4096)),
    4096,
]
FOREIGN_EVENTS = [
    Named(cuda_event=4096, device=Named(type="cuda", index=0)),
    Named(ptr=4096, record=nothing),
    Named(handle=4096),
    4096,
]


@without_cuda
@pytest.mark.parametrize("stream", FOREIGN_STREAMS)
def test_streams_of_other_libraries_are_understood(stream: Any) -> None:
    # That they are taken for CUDA streams shows in what is missing.
    for refused in (
        lambda: kvbm.TransferOptions(cuda_stream=stream),
        lambda: kvbm.TransferOptions(record_on=[stream]),
        lambda: kvbm.wrap_cuda_stream(stream),
        lambda: kvbm.wrap_cuda_stream(stream, device_id=1),
    ):
        with pytest.raises(kvbm.UnsupportedError, match="no CUDA device: "):
            refused()


@without_cuda
@pytest.mark.parametrize("event", FOREIGN_EVENTS)
def test_events_of_other_libraries_are_understood(
    manager: kvbm.TransferManager, event: Any
) -> None:
    stream = manager.device(0).create_stream()
    for refused in (
        lambda: kvbm.TransferOptions(wait_for=[event]),
        lambda: kvbm.wrap_cuda_event(event),
        lambda: stream.wait(event),
        lambda: stream.record(event),
    ):
        with pytest.raises(kvbm.UnsupportedError, match="no CUDA device: "):
            refused()


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "0",
        1.5,
        True,
        object(),
        Named(ptr=4096),
        Named(ptr=4096, record=nothing),
        Named(cuda_stream="7"),
        CudaCoreStream(4096),
    ],
)
def test_what_is_no_stream_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"record_on\[0\]"):
        kvbm.TransferOptions(record_on=[wrong])


@pytest.mark.parametrize(
    "wrong", [None, "0", False, Named(ptr=4096, record=nothing, wait_event=nothing), Named()]
)
def test_what_is_no_event_is_refused(manager: kvbm.TransferManager, wrong: Any) -> None:
    event = manager.device(0).create_event()
    with pytest.raises(TypeError, match=r"wait_for\[1\]"):
        kvbm.TransferOptions(wait_for=[event, wrong])


def test_handles_that_cannot_be_are_refused() -> None:
    with pytest.raises(kvbm.InvalidArgumentError, match=r"wait_for\[0\] was never recorded"):
        kvbm.TransferOptions(wait_for=[Named(cuda_event=0)])
    with pytest.raises(kvbm.InvalidArgumentError, match="cuda_stream is -1"):
        kvbm.TransferOptions(cuda_stream=-1)
    with pytest.raises(kvbm.InvalidArgumentError, match="version 3"):
        kvbm.TransferOptions(cuda_stream=CudaCoreStream((3, 4096)))


def test_streams_of_emulated_devices_have_no_handle(manager: kvbm.TransferManager) -> None:
    stream = manager.acquire_h2d_stream()
    assert stream.backend is kvbm.Backend.Host
    assert not stream.is_capturing
    assert not hasattr(stream, "cuda_stream")
    with pytest.raises(AttributeError, match="emulated device"):
        stream.__cuda_stream__()
    event = manager.device(0).create_event()
    assert event.backend is kvbm.Backend.Host
    assert not hasattr(event, "cuda_event")
    assert "host device 0" in repr(stream)


def test_emulated_memory_is_no_cuda_array(manager: kvbm.TransferManager) -> None:
    region = manager.device(0).allocate(4096)
    assert not hasattr(region, "__cuda_array_interface__")
    layout = contiguous(manager, config(), place=Builder.allocate_pinned)
    assert not hasattr(layout.regions[0], "__cuda_array_interface__")


def test_emulated_devices_have_empty_properties() -> None:
    device = kvbm.make_host_device(0, 1 << 20)
    properties = device.properties
    assert (properties.uuid, properties.pci_address) == ("", "")
    assert properties.num_multiprocessors == 0
    assert properties.compute_capability == 0
    assert device.numa_node == -1
    assert device.can_address(0)


@without_cuda
def test_without_cuda_the_reason_is_told() -> None:
    reason = kvbm.cuda_unavailable_reason()
    for refused in (
        kvbm.cuda_device,
        lambda: kvbm.cuda_device(1),
        lambda: kvbm.TransferManager(cuda_device_id=0),
        lambda: kvbm.TransferManager(cuda_device_id=[0, 1]),
    ):
        with pytest.raises(kvbm.UnsupportedError) as caught:
            refused()
        assert str(caught.value) == f"no CUDA device: {reason}"


def test_strategy_is_a_name_or_an_enumerator(manager: kvbm.TransferManager) -> None:
    assert [strategy.name for strategy in kvbm.Strategy] == [
        "HostCopy",
        "StreamCopy",
        "DmaCopy",
        "SmCopy",
        "StagedDma",
        "PinnedStaging",
        "DirectFile",
        "StagedFile",
        "DirectStorage",
        "DirectRemote",
        "StagedRemote",
        "PackedRemote",
    ]
    assert kvbm.TransferOptions().strategy is None
    named = kvbm.TransferOptions(strategy="StreamCopy", max_sms=3)
    assert named.strategy is kvbm.Strategy.StreamCopy
    assert named.max_sms == 3
    with pytest.raises(
        kvbm.InvalidArgumentError, match="'Teleport' is unknown; there are HostCopy"
    ):
        kvbm.TransferOptions(strategy="Teleport")

    engine = manager.register_layout(engine_layout(manager, random_cache()))
    target = manager.register_layout(contiguous(manager, config()))
    for strategy in (kvbm.Strategy.HostCopy, "HostCopy"):
        options = kvbm.TransferOptions(strategy=strategy)
        told = manager.explain_transfer(engine, [0], target, [0], options)
        assert told.strategy is kvbm.Strategy.HostCopy
        manager.execute_transfer(engine, [0], target, [0], options).wait()
    refused = kvbm.TransferOptions(strategy="DmaCopy")
    with pytest.raises(kvbm.UnsupportedError, match="DmaCopy"):
        manager.execute_transfer(engine, [0], target, [0], refused)


def test_record_on_lets_a_stream_wait(manager: kvbm.TransferManager, gate: Gate) -> None:
    engine = manager.register_layout(engine_layout(manager, random_cache()))
    layout = contiguous(manager, config(), place=lambda b: b.allocate_device(0))
    target = manager.register_layout(layout)
    stream = manager.device(0).create_stream("compute")
    seen: list[bool] = []
    options = kvbm.TransferOptions(wait_for=[gate.event], record_on=[stream])
    done = manager.execute_transfer(engine, [0], target, [0], options)
    stream.enqueue(lambda: seen.append(bool(layout.regions[0].numpy().any())))
    assert not done.is_ready()
    assert not stream.is_idle()
    gate.open()
    stream.synchronize()
    assert seen == [True]
    done.wait()


def test_plans_are_found_again() -> None:
    with kvbm.TransferManager(
        host_device_bytes=1 << 20, cuda_pool_reserve_size=0, plan_cache_capacity=1
    ) as manager:
        engine = manager.register_layout(engine_layout(manager, random_cache()))
        target = manager.register_layout(contiguous(manager, config()))
        assert manager.plan_cache_stats.capacity == 1
        for _ in range(3):
            manager.execute_transfer(engine, [0], target, [0]).wait()
        stats = manager.plan_cache_stats
        assert (stats.hits, stats.misses, stats.entries) == (2, 1, 1)


def test_costs_of_a_gpu_can_be_read_and_written() -> None:
    costs = kvbm.CostModel()
    path = costs.gpu.h2d.dma
    assert path.latency > 0
    assert [point.run_bytes for point in path.rates] == sorted(p.run_bytes for p in path.rates)
    path.rates = [kvbm.RatePoint(4096, 1e9), kvbm.RatePoint(1 << 20, 4e9)]
    path.latency = 5e-6
    assert costs.gpu.h2d.dma.latency == 5e-6
    assert costs.gpu[kvbm.LinkDirection.HostToDevice] == costs.gpu.h2d
    assert costs.gpu[kvbm.LinkDirection.DeviceToHost] != costs.gpu.h2d
    assert costs.gpu.h2d.dma.rate(4096) == pytest.approx(1e9)
    assert costs.gpu.h2d.dma.rate(64 << 10) == pytest.approx(2e9)
    assert costs.gpu.h2d.dma.rate(1 << 30) == pytest.approx(4e9)
    fresh = kvbm.GpuCosts()
    assert costs.gpu != fresh
    costs.gpu = fresh
    assert costs.gpu == fresh
    assert repr(kvbm.RatePoint(4096, 1e9)) == "RatePoint(4096, 1000000000.0)"
    with kvbm.TransferManager(
        cost_model=costs, host_device_bytes=1 << 20, cuda_pool_reserve_size=0
    ) as manager:
        assert manager.handles() == []


def test_costs_are_kept_for_later_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device = kvbm.make_host_device()
    assert kvbm.CostModel.load(device) is None
    costs = kvbm.CostModel()
    costs.host_copy_rate = 5e9
    costs.gpu.d2h.sm.latency = 3e-6
    path = costs.save(device)
    assert Path(path).is_relative_to(tmp_path)
    kept = kvbm.CostModel.load(device)
    assert kept is not None
    assert kept.host_copy_rate == 5e9
    assert kept.gpu == costs.gpu
    costs.gpu.d2h.sm.rates = []
    with pytest.raises(kvbm.InvalidArgumentError):
        costs.save(device)


def test_import_starts_nothing_of_cuda() -> None:
    # The driver is loaded by whoever asks for a device, not by `import`.
    code = (
        "import kvbm_cpp, pathlib\n"
        "maps = pathlib.Path('/proc/self/maps').read_text()\n"
        "print('libcuda.so' in maps, 'libnvidia' in maps)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", "False"]
