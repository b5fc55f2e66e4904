# SPDX-License-Identifier: Apache-2.0
"""Streams, events and graphs of torch and cupy order what kvbm moves on a GPU."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cuda_support import (
    ALL,
    PATIENCE,
    SHUFFLED,
    CudaGate,
    Pair,
    bits_of,
    expect_universal,
    torch_cache,
)
from support import random_cache, universal_tp_array, universal_tp_of

import kvbm_cpp as kvbm

pytestmark = pytest.mark.filterwarnings("default")


class ProtocolStream:
    """A stream that speaks CUDA's protocol, over one of torch's."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return (0, self._stream.cuda_stream)


class Owner:
    """A stream's or event's owner, whose life can be watched."""

    def __init__(self, **attributes: Any):
        self.__dict__.update(attributes)


@pytest.fixture
def pair(cuda_manager: kvbm.TransferManager, torch: Any) -> Pair:
    return Pair(cuda_manager, torch)


@pytest.fixture
def cuda_gate() -> Iterator[CudaGate]:
    """Holds streams back; opened at the end whatever happens."""
    gate = CudaGate()
    yield gate
    gate.open()


@pytest.mark.parametrize("form", ["torch", "int", "protocol", "kvbm"])
def test_streams_of_torch_order_a_transfer(
    pair: Pair, torch: Any, cuda_gate: CudaGate, form: str
) -> None:
    stream = torch.cuda.Stream()
    given: Any = {
        "torch": stream,
        "int": stream.cuda_stream,
        "protocol": ProtocolStream(stream),
        "kvbm": kvbm.wrap_cuda_stream(stream, device_id=0),
    }[form]
    cuda_gate.hold(stream)
    pair.write_on(stream)
    done = pair.offload(kvbm.TransferOptions(cuda_stream=given))
    assert done.is_ready()
    assert not done.could_yield()
    assert not universal_tp_array(pair.pinned_layout).any()
    cuda_gate.open()
    stream.synchronize()
    assert pair.has_arrived()


def test_streams_and_events_of_cupy(pair: Pair, torch: Any, cupy: Any) -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    assert kvbm.wrap_cuda_stream(stream).cuda_stream == stream.ptr
    pair.write_on(torch.cuda.ExternalStream(stream.ptr))
    pair.offload(kvbm.TransferOptions(cuda_stream=stream))
    stream.synchronize()
    assert pair.has_arrived()

    pair.wipe()
    pair.write_on(torch.cuda.ExternalStream(stream.ptr))
    event = cupy.cuda.Event()
    event.record(stream)
    pair.offload(kvbm.TransferOptions(wait_for=[event])).wait(PATIENCE)
    assert pair.has_arrived()


def test_default_stream_of_torch(pair: Pair, torch: Any) -> None:
    stream = torch.cuda.default_stream()
    pair.write_on(stream)
    pair.offload(kvbm.TransferOptions(cuda_stream=stream))
    stream.synchronize()
    assert pair.has_arrived()


@pytest.mark.parametrize("waits", [True, False])
def test_what_a_transfer_reads_is_there_if_it_waits(
    pair: Pair, torch: Any, cuda_gate: CudaGate, waits: bool
) -> None:
    # The engine has not written when a transfer that does not wait has moved everything.
    stream = torch.cuda.Stream()
    cuda_gate.hold(stream)
    pair.write_on(stream)
    written = torch.cuda.Event()
    written.record(stream)
    done = pair.offload(kvbm.TransferOptions(wait_for=[written] if waits else []))
    if waits:
        assert not done.wait_for(0.05)
        cuda_gate.open()
    done.wait(PATIENCE)
    cuda_gate.open()
    stream.synchronize()
    assert pair.has_arrived() == waits


@pytest.mark.parametrize("recorded", [True, False])
def test_what_a_stream_reads_is_there_if_it_waits(
    pair: Pair, torch: Any, cuda_gate: CudaGate, recorded: bool
) -> None:
    pair.write_on(torch.cuda.current_stream())
    torch.cuda.synchronize()
    pair.offload().wait(PATIENCE)
    for tensor in pair.tensors:
        tensor.view(torch.uint8).zero_()
    torch.cuda.synchronize()
    held, reader = torch.cuda.Stream(), torch.cuda.Stream()
    seen = [torch.empty_like(tensor) for tensor in pair.tensors]
    cuda_gate.hold(held)
    begin = torch.cuda.Event()
    begin.record(held)
    options = kvbm.TransferOptions(wait_for=[begin], record_on=[reader] if recorded else [])
    done = pair.manager.execute_transfer(pair.pinned, SHUFFLED, pair.engine, ALL, options)
    with torch.cuda.stream(reader):
        for copy, tensor in zip(seen, pair.tensors, strict=True):
            copy.copy_(tensor)
    if not recorded:
        reader.synchronize()
    cuda_gate.open()
    done.wait(PATIENCE)
    reader.synchronize()
    found = all(
        np.array_equal(bits_of(copy), original)
        for copy, original in zip(seen, pair.cache, strict=True)
    )
    assert found == recorded


def test_streams_of_the_pools_are_streams_of_torch(pair: Pair, torch: Any, cupy: Any) -> None:
    for acquire in (
        pair.manager.acquire_h2d_stream,
        pair.manager.acquire_d2h_stream,
        pair.manager.acquire_d2d_stream,
    ):
        stream = acquire()
        assert stream.backend is kvbm.Backend.Cuda
        assert stream.__cuda_stream__() == (0, stream.cuda_stream)
        external = torch.cuda.ExternalStream(stream.cuda_stream)
        pair.wipe()
        pair.write_on(external)
        pair.offload(kvbm.TransferOptions(cuda_stream=stream))
        external.synchronize()
        assert pair.has_arrived()
        assert stream.is_idle()
        with cupy.cuda.ExternalStream(stream.cuda_stream):
            assert int(cupy.arange(4).sum()) == 6


def test_events_of_kvbm_are_events_of_cuda(pair: Pair, torch: Any) -> None:
    stream = torch.cuda.Stream()
    pair.write_on(stream)
    event = pair.manager.device(0).create_event()
    kvbm.wrap_cuda_stream(stream).record(event)
    assert event.backend is kvbm.Backend.Cuda
    assert event.cuda_event != 0
    again = kvbm.wrap_cuda_event(event.cuda_event)
    pair.offload(kvbm.TransferOptions(wait_for=[event, again])).wait(PATIENCE)
    assert event.is_complete()
    assert pair.has_arrived()


def test_unrecorded_events_are_refused(pair: Pair, torch: Any) -> None:
    with pytest.raises(kvbm.InvalidArgumentError, match=r"wait_for\[0\] was never recorded"):
        kvbm.TransferOptions(wait_for=[torch.cuda.Event()])


def test_owners_of_streams_and_events_live_as_long_as_needed(pair: Pair, torch: Any) -> None:
    stream, event = torch.cuda.Stream(), torch.cuda.Event()
    event.record(stream)
    owners = [
        Owner(cuda_stream=stream.cuda_stream, device_index=0),
        Owner(cuda_event=event.cuda_event),
        Owner(cuda_stream=stream.cuda_stream),
    ]
    watched = [weakref.ref(owner) for owner in owners]
    options = kvbm.TransferOptions(wait_for=[owners[1]], record_on=[owners[0], owners[2]])
    del owners
    gc.collect()
    assert all(reference() is not None for reference in watched)
    done = pair.offload(options)
    del options
    done.wait(PATIENCE)
    del done
    torch.cuda.synchronize()
    for _ in range(100):
        # Whoever let them go last had no interpreter lock: the next calls do it.
        pair.manager.device(0).synchronize()
        gc.collect()
        if all(reference() is None for reference in watched):
            break
    assert all(reference() is None for reference in watched)


# CUDA graphs


@pytest.mark.parametrize("mode", ["global", "thread_local"])
@pytest.mark.parametrize("direction", ["offload", "onboard"])
def test_transfers_are_captured_in_a_graph(
    pair: Pair, torch: Any, direction: str, mode: str
) -> None:
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode=mode):
        stream = torch.cuda.current_stream()
        assert kvbm.wrap_cuda_stream(stream).is_capturing
        options = kvbm.TransferOptions(cuda_stream=stream)
        if direction == "offload":
            for tensor, source in zip(pair.tensors, pair.source, strict=True):
                tensor.copy_(source)
            pair.offload(options)
        else:
            pair.manager.execute_transfer(pair.pinned, SHUFFLED, pair.engine, ALL, options)
    array = universal_tp_array(pair.pinned_layout)
    assert not array.any()  # captured, not done
    for seed in range(10, 13):
        cache = random_cache(seed=seed)
        if direction == "offload":
            for source, fresh in zip(pair.source, torch_cache(torch, cache), strict=True):
                source.copy_(fresh)
        else:
            for source, destination in zip(ALL, SHUFFLED, strict=True):
                array[destination] = universal_tp_of(cache, source)
        torch.cuda.synchronize()
        graph.replay()
        torch.cuda.synchronize()
        if direction == "offload":
            expect_universal(pair.pinned_layout, cache)
        else:
            for tensor, expected in zip(pair.tensors, cache, strict=True):
                np.testing.assert_array_equal(bits_of(tensor), expected)


@pytest.mark.parametrize("strategy", ["DmaCopy", "SmCopy"])
def test_every_way_without_a_ring_is_captured(pair: Pair, torch: Any, strategy: str) -> None:
    chosen = kvbm.TransferOptions(strategy=strategy)
    pair.offload(chosen).wait(PATIENCE)
    pair.wipe()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        stream = torch.cuda.current_stream()
        pair.offload(kvbm.TransferOptions(cuda_stream=stream, strategy=strategy))
    for tensor, source in zip(pair.tensors, pair.source, strict=True):
        tensor.copy_(source)
    graph.replay()
    torch.cuda.synchronize()
    assert pair.has_arrived()
