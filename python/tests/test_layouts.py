# SPDX-License-Identifier: Apache-2.0
"""PhysicalLayout: the builder, external memory of every kind, lifetimes."""

from __future__ import annotations

import ctypes
import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import (
    HEADS,
    LAYERS,
    NHD,
    UNIVERSAL_TP,
    Builder,
    config,
    contiguous,
    engine_layout,
    random_cache,
    universal_tp_array,
    universal_tp_of,
)

import kvbm_cpp as kvbm


class DlpackOnly:
    """A CPU tensor of another library: nothing but DLPack."""

    def __init__(self, array: np.ndarray[Any, Any]):
        self._array = array

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any:
        return self._array.__dlpack__(*args, **kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


class FakeCudaTensor:
    """What libraries without DLPack say about their CUDA tensors."""

    def __init__(self, **interface: Any):
        self.__cuda_array_interface__ = {"version": 3, **interface}


def contiguous_over(manager: kvbm.TransferManager, region: Any) -> kvbm.PhysicalLayout:
    return (
        manager.layout_builder()
        .config(config())
        .fully_contiguous(UNIVERSAL_TP)
        .with_external_regions([region])
        .build()
    )


def expect_copy_into(
    manager: kvbm.TransferManager, layout: kvbm.PhysicalLayout, memory: np.ndarray[Any, Any]
) -> None:
    cache = random_cache()
    engine = manager.register_layout(engine_layout(manager, cache))
    target = manager.register_layout(layout)
    manager.execute_transfer(engine, [1], target, [0]).wait()
    block = memory.view(np.uint8).ravel()[: config().block_bytes]
    np.testing.assert_array_equal(block, universal_tp_of(cache, 1).view(np.uint8).ravel())


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        (Builder.allocate_system, "System"),
        (Builder.allocate_pinned, "Pinned"),
        (lambda b: b.allocate_device(0), "Device"),
        (lambda b: b.allocate_disk(), "Disk"),
    ],
)
def test_owned_memory_of_every_kind(manager: kvbm.TransferManager, place: Any, kind: str) -> None:
    layout = contiguous(manager, config(), place=place)
    assert layout.storage_kind is kvbm.StorageKind[kind]
    assert layout.kind is kvbm.LayoutKind.FullyContiguous
    assert layout.format == UNIVERSAL_TP
    assert len(layout.regions) == 1
    assert layout.regions[0].kind is kvbm.StorageKind[kind]
    assert layout.regions[0].bytes >= 6 * config().block_bytes
    assert kind in str(layout)


def test_builder_without_a_manager() -> None:
    layout = kvbm.PhysicalLayout.builder().config(config()).fully_contiguous().allocate_system()
    assert layout.build().format == NHD


def test_builder_steps_come_once_and_leave_the_builder_alone(
    manager: kvbm.TransferManager,
) -> None:
    start = manager.layout_builder()
    with_config = start.config(config())
    with pytest.raises(kvbm.InvalidArgumentError, match=r"config\(\) was called already"):
        with_config.config(config())
    with_kind = with_config.fully_contiguous()
    with pytest.raises(kvbm.InvalidArgumentError, match="kind was chosen already"):
        with_kind.layer_separate(kvbm.BlockDimension.First)
    complete = with_kind.allocate_system()
    with pytest.raises(kvbm.InvalidArgumentError, match="memory was chosen already"):
        complete.allocate_pinned()
    assert complete.build().storage_kind is kvbm.StorageKind.System
    assert with_kind.allocate_pinned().build().storage_kind is kvbm.StorageKind.Pinned


def test_early_build_says_what_is_missing(manager: kvbm.TransferManager) -> None:
    with pytest.raises(kvbm.InvalidArgumentError, match=r"config\(\); fully_contiguous\(\)"):
        manager.layout_builder().build()
    with pytest.raises(kvbm.InvalidArgumentError, match=r"missing: allocate_"):
        manager.layout_builder().config(config()).fully_contiguous().build()


def test_numpy_array_is_registered_without_a_copy(manager: kvbm.TransferManager) -> None:
    memory = np.zeros((6, config().block_bytes // 2), np.uint16)
    layout = contiguous_over(manager, memory)
    assert layout.regions[0].address == memory.ctypes.data
    expect_copy_into(manager, layout, memory)


def test_dlpack_tensor_is_registered_without_a_copy(manager: kvbm.TransferManager) -> None:
    memory = np.zeros((6, config().block_bytes // 2), np.float16)
    layout = contiguous_over(manager, DlpackOnly(memory))
    assert layout.regions[0].address == memory.ctypes.data
    expect_copy_into(manager, layout, memory)


def test_buffer_is_registered_without_a_copy(manager: kvbm.TransferManager) -> None:
    memory = bytearray(6 * config().block_bytes)
    layout = contiguous_over(manager, memory)
    expect_copy_into(manager, layout, np.frombuffer(memory, np.uint8))


def test_raw_address_is_registered(manager: kvbm.TransferManager) -> None:
    memory = (ctypes.c_uint8 * (6 * config().block_bytes))()
    layout = contiguous_over(manager, (ctypes.addressof(memory), len(memory)))
    assert layout.regions[0].address == ctypes.addressof(memory)
    expect_copy_into(manager, layout, np.ctypeslib.as_array(memory))


def test_region_is_registered(manager: kvbm.TransferManager) -> None:
    region = manager.device(0).allocate(6 * config().block_bytes)
    layout = (
        manager.layout_builder()
        .config(config())
        .fully_contiguous(UNIVERSAL_TP)
        .with_external_device_regions([region])
        .build()
    )
    assert layout.regions[0].address == region.address
    expect_copy_into(manager, layout, region.numpy())
    again = manager.layout_builder().config(config()).fully_contiguous().with_regions([region])
    assert again.build().storage_kind is kvbm.StorageKind.Device


@pytest.mark.parametrize(
    ("region", "error", "message"),
    [
        (np.zeros((4, 6), np.uint16).T, kvbm.InvalidArgumentError, "not C-contiguous"),
        (np.zeros(64, np.uint16)[::2], kvbm.InvalidArgumentError, "not C-contiguous"),
        (np.zeros(64, np.float64), kvbm.InvalidArgumentError, "elements of 8 bytes"),
        (np.zeros(0, np.uint16), kvbm.InvalidArgumentError, "no elements"),
        (b"read-only", kvbm.InvalidArgumentError, "read-only"),
        (np.zeros(64, np.uint16), kvbm.InvalidArgumentError, "128"),
        ((0, 4096), kvbm.InvalidArgumentError, "null|address"),
        ((4096,), kvbm.InvalidArgumentError, "must be \\(address, bytes"),
        ((4096, 4096, 0), kvbm.InvalidArgumentError, "with_external_device_regions"),
        ("text", TypeError, "regions\\[0\\] is a str"),
        (None, TypeError, "NoneType"),
    ],
)
def test_unfit_memory_is_refused(
    manager: kvbm.TransferManager, region: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        contiguous_over(manager, region)


def test_read_only_array_is_refused(manager: kvbm.TransferManager) -> None:
    memory = np.zeros(6 * config().block_bytes, np.uint8)
    memory.flags.writeable = False
    with pytest.raises(kvbm.InvalidArgumentError, match=r"regions\[0\] is read-only"):
        contiguous_over(manager, memory)


def test_a_tensor_is_no_list_of_tensors(manager: kvbm.TransferManager) -> None:
    builder = manager.layout_builder().config(config()).fully_contiguous()
    with pytest.raises(TypeError, match="must be a list"):
        builder.with_external_regions(np.zeros(64, np.uint16))  # type: ignore[arg-type]


def test_host_array_is_no_device_memory(manager: kvbm.TransferManager) -> None:
    memory = np.zeros(6 * config().block_bytes, np.uint8)
    builder = manager.layout_builder().config(config()).fully_contiguous()
    with pytest.raises(kvbm.InvalidArgumentError):
        builder.with_external_device_regions([memory], device_id=0).build()


def test_wrong_number_of_layers_is_refused(manager: kvbm.TransferManager) -> None:
    builder = manager.layout_builder().config(config())
    builder = builder.layer_separate(kvbm.BlockDimension.Second)
    with pytest.raises(kvbm.InvalidArgumentError, match="3"):
        builder.with_external_regions(random_cache()[:2]).build()


def test_cuda_array_interface_is_read(manager: kvbm.TransferManager) -> None:
    size = 6 * config().block_bytes
    region = manager.device(0).allocate(size)
    tensor = FakeCudaTensor(shape=(size // 2,), typestr="<u2", data=(region.address, False))
    builder = manager.layout_builder().config(config()).fully_contiguous(UNIVERSAL_TP)
    layout = builder.with_external_device_regions([tensor]).build()
    assert layout.regions[0].address == region.address
    expect_copy_into(manager, layout, region.numpy())
    for bad, message in (
        ({"data": (region.address, True), "shape": (2,)}, "read-only"),
        ({"data": (region.address, False), "shape": (2, 2), "strides": (2, 4)}, "C-contiguous"),
    ):
        with pytest.raises(kvbm.InvalidArgumentError, match=message):
            builder.with_external_device_regions([FakeCudaTensor(typestr="<u2", **bad)])


def test_layout_keeps_external_arrays_alive(manager: kvbm.TransferManager) -> None:
    cache = random_cache()
    expected = universal_tp_of(cache, 2)
    watched = [weakref.ref(tensor) for tensor in cache]
    engine = manager.register_layout(engine_layout(manager, cache))
    del cache
    gc.collect()
    assert all(reference() is not None for reference in watched)
    layout = contiguous(manager, config())
    target = manager.register_layout(layout)
    manager.execute_transfer(engine, [2], target, [2]).wait()
    np.testing.assert_array_equal(universal_tp_array(layout)[2], expected)
    manager.unregister_layout(engine)
    gc.collect()
    assert all(reference() is None for reference in watched)


def test_arrays_keep_device_memory_alive(manager: kvbm.TransferManager) -> None:
    device = manager.device(0)
    before = device.used_bytes
    array = device.empty((128, 1024), np.uint8)
    array[...] = 7
    part = array[5]
    del array
    gc.collect()
    assert device.used_bytes > before
    assert part.tolist() == [7] * 1024
    exported = np.from_dlpack(part)
    del part
    gc.collect()
    assert device.used_bytes > before
    assert exported[0] == 7
    del exported
    gc.collect()
    assert device.used_bytes == before


def test_device_arrays_take_any_shape_and_dtype() -> None:
    device = kvbm.make_host_device(3, 1 << 20)
    assert device.id == 3
    assert device.backend is kvbm.Backend.Host
    assert device.is_host_accessible
    assert device.total_bytes == 1 << 20
    assert device.empty(5, "int8").shape == (5,)
    assert device.empty((2, 3), np.dtype(">f8")).dtype == np.dtype(">f8")
    assert not device.empty([4, 4]).any()
    with pytest.raises(kvbm.OutOfMemoryError, match="host device 3"):
        device.empty(1 << 20, "float32")
    with pytest.raises(kvbm.InvalidArgumentError, match="shape is -1"):
        device.empty((2, -1))


def test_layout_outlives_its_manager() -> None:
    with kvbm.TransferManager(host_device_bytes=1 << 20, cuda_pool_reserve_size=0) as manager:
        layout = contiguous(manager, config(), place=lambda b: b.allocate_device(0))
        array = universal_tp_array(layout)
    del layout
    gc.collect()
    array[...] = 1
    assert array.all()


def test_views_name_addresses_and_strides(manager: kvbm.TransferManager) -> None:
    layout = contiguous(manager, config(), NHD)
    view = layout.chunk_view(1, 2, 1)
    assert view.region == 0
    assert view.offset == config().block_bytes + (2 * 2 + 1) * config().chunk_bytes
    assert view.address == layout.regions[0].address + view.offset
    assert view.bytes == config().chunk_bytes
    assert view.is_contiguous
    assert view.dims == (kvbm.Dim.Token, kvbm.Dim.Head, kvbm.Dim.HeadDim)
    assert view.shape == (4, HEADS, 8)
    assert view.strides == (HEADS * 8 * 2, 8 * 2, 2)
    assert layout.block_view(3).offset == 3 * config().block_bytes
    with pytest.raises(kvbm.OutOfRangeError, match="6"):
        layout.chunk_view(6, 0, 0)


def test_fingerprints_tell_formats_apart(manager: kvbm.TransferManager) -> None:
    nhd, tp = contiguous(manager, config(), NHD), contiguous(manager, config(), UNIVERSAL_TP)
    assert nhd.fingerprint() != tp.fingerprint()
    assert nhd.shape_fingerprint() == tp.shape_fingerprint()
    assert nhd.with_format(UNIVERSAL_TP).fingerprint() == tp.fingerprint()
    assert '"version"' in nhd.descriptor_json()


def test_engine_tensor_in_any_order(manager: kvbm.TransferManager) -> None:
    dim = kvbm.Dim
    tensor = kvbm.KvDimLayout(
        [(dim.Block, 6), (dim.Outer, 2), (dim.Head, 4), (dim.Token, 4), (dim.Payload, 8)], 2
    )
    tensors = [np.zeros((6, 2, 4, 4, 8), np.uint16) for _ in range(LAYERS)]
    builder = manager.layout_builder().config(tensor.config(LAYERS)).layer_separate(tensor)
    layout = builder.with_external_regions(tensors).build()
    assert layout.format == kvbm.KvBlockLayout.OperationalHND
    assert layout.block_dimension is kvbm.BlockDimension.First


def test_disk_layout_reopens_read_only_in_many(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with kvbm.TransferManager() as manager:
        layout = contiguous(manager, config(), place=lambda b: b.allocate_disk(path))
        assert layout.regions[0].io_engine in {"IoUring", "Threads"}
        disk = manager.register_layout(layout)
        manager.fill_blocks(disk, [0, 1], kvbm.FillPattern())
        sums = manager.block_checksums(disk, [0, 1])
        with pytest.raises(kvbm.BusyError, match="store"):
            kvbm.PhysicalLayout.open_disk(path)
    del layout
    with kvbm.TransferManager() as manager:
        first = manager.open_disk(path, read_only=True)
        second = kvbm.PhysicalLayout.open_disk(str(path), read_only=True)
        assert first.config.num_blocks == second.config.num_blocks == 6
        assert first.format == UNIVERSAL_TP
        assert manager.block_checksums(manager.register_layout(first), [0, 1]) == sums
        with pytest.raises(kvbm.NotFoundError, match="never written"):
            manager.block_checksums(manager.register_layout(second), [2])
