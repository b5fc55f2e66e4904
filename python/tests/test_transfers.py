# SPDX-License-Identifier: Apache-2.0
"""Bytes arrive: every kind of storage, against numpy transposes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import (
    DTYPES,
    HEADS,
    LAYERS,
    NHD,
    UNIVERSAL_TP,
    Builder,
    Gate,
    config,
    contiguous,
    engine_layout,
    random_cache,
    universal_tp_array,
    universal_tp_of,
)

import kvbm_cpp as kvbm

ALL = list(range(6))
SHUFFLED = [4, 0, 5, 2, 1, 3]


@pytest.mark.parametrize("width", DTYPES)
def test_engine_blocks_become_universal(manager: kvbm.TransferManager, width: int) -> None:
    cache = random_cache(width=width)
    engine = manager.register_layout(engine_layout(manager, cache, width))
    layout = contiguous(manager, config(width=width))
    target = manager.register_layout(layout)
    manager.execute_transfer(engine, ALL, target, SHUFFLED).wait()
    array = universal_tp_array(layout, width)
    for source, destination in zip(ALL, SHUFFLED, strict=True):
        np.testing.assert_array_equal(array[destination], universal_tp_of(cache, source))


@pytest.mark.parametrize("width", DTYPES)
def test_round_trip_through_disk_restores_every_bit(
    manager: kvbm.TransferManager, tmp_path: Path, width: int
) -> None:
    cache = random_cache(width=width)
    kept = [tensor.copy() for tensor in cache]
    path = tmp_path / "store"
    with kvbm.TransferManager() as writer:
        engine = writer.register_layout(engine_layout(writer, cache, width))
        pinned = writer.register_layout(
            contiguous(writer, config(width=width), place=Builder.allocate_pinned)
        )
        disk = writer.register_layout(
            contiguous(writer, config(width=width), place=lambda b: b.allocate_disk(path))
        )
        sums = writer.block_checksums(engine, ALL)
        writer.execute_transfer(engine, ALL, pinned, SHUFFLED).wait()
        writer.execute_transfer(pinned, SHUFFLED, disk, ALL).wait()
        writer.sync(disk)
        assert writer.block_checksums(disk, ALL) == sums
    for tensor in cache:
        tensor[...] = 0

    engine = manager.register_layout(engine_layout(manager, cache, width))
    again = manager.register_layout(manager.open_disk(path, read_only=True))
    manager.execute_transfer(again, ALL, engine, ALL).wait()
    assert manager.block_checksums(engine, ALL) == sums
    for tensor, original in zip(cache, kept, strict=True):
        np.testing.assert_array_equal(tensor, original)


def test_layer_range_moves_these_layers_only(manager: kvbm.TransferManager) -> None:
    cache = random_cache()
    engine = manager.register_layout(engine_layout(manager, cache))
    layout = contiguous(manager, config())
    target = manager.register_layout(layout)
    options = kvbm.TransferOptions(layer_range=range(1, 2))
    manager.execute_transfer(engine, [2], target, [3], options).wait()
    array = universal_tp_array(layout)
    expected = np.zeros_like(array)
    expected[3][:, 1] = universal_tp_of(cache, 2)[:, 1]
    np.testing.assert_array_equal(array, expected)


def test_head_range_moves_one_rank(manager: kvbm.TransferManager) -> None:
    cache = random_cache()
    engine = manager.register_layout(engine_layout(manager, cache))
    for rank in range(HEADS):
        shape = config(num_blocks=1, inner_dim=8, num_heads=1)
        layout = contiguous(manager, shape)
        shard = manager.register_layout(layout)
        options = kvbm.TransferOptions(src_head_range=(rank, rank + 1), dst_head_range=(0, 1))
        manager.execute_transfer(engine, [5], shard, [0], options).wait()
        array = layout.regions[0].numpy(dtype=np.uint16)
        np.testing.assert_array_equal(array, universal_tp_of(cache, 5)[rank].ravel())


def test_format_override_reads_bytes_another_way(manager: kvbm.TransferManager) -> None:
    cache = random_cache()
    engine = manager.register_layout(engine_layout(manager, cache))
    layout = contiguous(manager, config(), NHD)
    target = manager.register_layout(layout)
    options = kvbm.TransferOptions(dst_kv_layout=UNIVERSAL_TP)
    manager.execute_transfer(engine, [0], target, [0], options).wait()
    array = universal_tp_array(layout)
    np.testing.assert_array_equal(array[0], universal_tp_of(cache, 0))


def test_kv_blocks_stand_for_handle_and_ids(manager: kvbm.TransferManager) -> None:
    cache = random_cache()
    layout = engine_layout(manager, cache)
    engine = manager.register_layout(layout)
    target_layout = contiguous(manager, config())
    target = manager.blocks(manager.register_layout(target_layout), [1, 2])
    source = kvbm.KvBlocks.of(layout, [3, 4])
    assert source.handle is None
    assert target.handle is not None
    assert source.block_ids == [3, 4]
    assert len(source) == 2
    assert source.requires_transform_to(target)
    manager.execute_transfer(source, target).wait()
    np.testing.assert_array_equal(universal_tp_array(target_layout)[1], universal_tp_of(cache, 3))
    assert manager.explain_transfer(source, target).num_blocks == 2
    assert manager.blocks(engine, [0]).override_format is None
    with pytest.raises(kvbm.OutOfRangeError, match="6"):
        kvbm.KvBlocks.of(layout, [6])


def test_prepared_transfer_takes_ids_later(manager: kvbm.TransferManager) -> None:
    cache = random_cache()
    engine = manager.register_layout(engine_layout(manager, cache))
    layout = contiguous(manager, config())
    target = manager.register_layout(layout)
    prepared = manager.prepare_transfer(engine, target)
    for block in ALL:
        prepared.submit([block], [SHUFFLED[block]]).wait()
    for block in ALL:
        expected = universal_tp_of(cache, block)
        np.testing.assert_array_equal(universal_tp_array(layout)[SHUFFLED[block]], expected)
    assert prepared.plan.bytes_per_block == config().block_bytes
    assert prepared.explain([0], [0]).total_bytes == config().block_bytes


def test_explanation_tells_plan_and_reason(manager: kvbm.TransferManager, tmp_path: Path) -> None:
    engine = manager.register_layout(engine_layout(manager, random_cache()))
    disk = manager.register_layout(
        contiguous(manager, config(), place=lambda b: b.allocate_disk(tmp_path / "store"))
    )
    told = manager.explain_transfer(engine, ALL, disk, ALL)
    assert told.num_blocks == 6
    assert told.total_bytes == 6 * config().block_bytes
    assert told.strategy is kvbm.Strategy.StagedFile
    assert told.plan.bytes_per_block == config().block_bytes
    assert told.plan.runs_per_block * told.plan.run_bytes == config().block_bytes
    assert [candidate.strategy for candidate in told.candidates] == list(kvbm.Strategy)
    assert told.reason
    assert told.hops
    assert told.estimated_seconds > 0
    assert "StagedFile" in str(told)
    assert manager.layout(disk).regions[0].file_path == str(tmp_path / "store")


def test_bounce_buffer_is_used(manager: kvbm.TransferManager, tmp_path: Path) -> None:
    cache = random_cache()
    engine = manager.register_layout(engine_layout(manager, cache))
    disk = manager.register_layout(
        contiguous(manager, config(), place=lambda b: b.allocate_disk(tmp_path / "store"))
    )
    staging = manager.register_layout(
        contiguous(manager, config(num_blocks=2), place=Builder.allocate_pinned)
    )
    bounce = kvbm.BounceBuffer.from_handle(staging, [0, 1])
    assert bounce.block_ids == [0, 1]
    assert bounce.handle == staging
    options = kvbm.TransferOptions(bounce_buffer=bounce)
    manager.execute_transfer(engine, ALL, disk, ALL, options).wait()
    assert manager.block_checksums(disk, ALL) == manager.block_checksums(engine, ALL)


def test_device_tensors_are_layouts(manager: kvbm.TransferManager) -> None:
    device = manager.device(1)
    assert device.id == 1
    shape = (2, 6, 4, 4, 8)
    tensors = [device.empty(shape, np.uint16) for _ in range(LAYERS)]
    assert device.used_bytes >= LAYERS * tensors[0].nbytes
    for tensor, values in zip(tensors, random_cache(), strict=True):
        tensor[...] = values
    layout = (
        manager.layout_builder()
        .config(config())
        .layer_separate(kvbm.BlockDimension.Second, NHD)
        .with_external_device_regions(tensors, device_id=1)
        .build()
    )
    assert layout.storage_kind is kvbm.StorageKind.Device
    assert layout.device_id == 1
    target_layout = contiguous(manager, config())
    engine, target = manager.register_layout(layout), manager.register_layout(target_layout)
    manager.execute_transfer(engine, ALL, target, ALL).wait()
    for block in ALL:
        expected = universal_tp_of(tensors, block)
        np.testing.assert_array_equal(universal_tp_array(target_layout)[block], expected)


def test_caller_stream_orders_the_work(manager: kvbm.TransferManager, gate: Gate) -> None:
    cache = random_cache()
    engine = manager.register_layout(engine_layout(manager, cache))
    layout = contiguous(manager, config(), place=lambda b: b.allocate_device(0))
    target = manager.register_layout(layout)
    stream = manager.device(0).create_stream("caller")
    stream.wait(gate.event)
    options = kvbm.TransferOptions(cuda_stream=stream)
    done = manager.execute_transfer(engine, [0], target, [0], options)
    assert done.is_ready()
    assert not universal_tp_array(layout).any()
    gate.open()
    stream.synchronize()
    np.testing.assert_array_equal(universal_tp_array(layout)[0], universal_tp_of(cache, 0))


def test_fills_and_checksums_agree_between_formats(manager: kvbm.TransferManager) -> None:
    handles = [
        manager.register_layout(contiguous(manager, config(), format))
        for format in (UNIVERSAL_TP, kvbm.KvBlockLayout.UniversalPP, NHD)
    ]
    for kind in kvbm.FillPattern.Kind:
        for handle in handles:
            manager.fill_blocks(handle, ALL, kvbm.FillPattern(kind, 5))
        sums = [manager.block_checksums(handle, ALL) for handle in handles]
        assert sums[0] == sums[1] == sums[2]
        layers = [manager.layer_checksums(handle, ALL) for handle in handles]
        assert layers[0] == layers[1] == layers[2]
        assert [len(block) for block in layers[0]] == [LAYERS] * 6
    assert len(set(manager.block_checksums(handles[0], ALL))) == 6


def test_registry_forgets_layouts(manager: kvbm.TransferManager) -> None:
    layout = contiguous(manager, config())
    handle = manager.register_layout(layout)
    assert handle.worker_id == manager.worker_id == manager.event_system.worker_id
    assert manager.handles() == [handle]
    assert manager.layout(handle).config == layout.config
    manager.unregister_layout(handle)
    assert manager.handles() == []
    with pytest.raises(kvbm.NotFoundError, match=r"LayoutHandle\("):
        manager.layout(handle)


def test_context_hands_out_streams(manager: kvbm.TransferManager) -> None:
    assert [device.id for device in manager.devices] == [0, 1]
    for acquire in (
        manager.acquire_h2d_stream,
        manager.acquire_d2h_stream,
        manager.acquire_d2d_stream,
    ):
        stream = acquire()
        assert stream.device_id == 0
        stream.synchronize()
        assert stream.is_idle()
    assert manager.memory_pool_stats.used_bytes == 0
    assert manager.copy_threads == 2
