# SPDX-License-Identifier: Apache-2.0
"""GPU memory of torch and cupy in place, in every type, shape and way."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import numpy as np
import pytest
from cuda_support import (
    ALL,
    BLOCKS,
    PATIENCE,
    SHAPE,
    SHUFFLED,
    bits_of,
    expect_universal,
    pinned,
    round_trip,
    torch_cache,
    wiper,
)
from support import HEAD_DIM, HEADS, LAYERS, NHD, OUTER, TOKENS, config, contiguous, random_cache

import kvbm_cpp as kvbm
from kvbm_cpp import EngineDims

pytestmark = pytest.mark.filterwarnings("default")

#: torch types by width; all but the first two have no DLPack or no CUDA array interface type.
TORCH_DTYPES = {
    "float16": 2,
    "float32": 4,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "uint8": 1,
    "int64": 8,
}


# Devices and memory


def test_device_tells_what_it_is(cuda_manager: kvbm.TransferManager) -> None:
    device = cuda_manager.device(0)
    again = kvbm.cuda_device(0)
    assert device.backend is kvbm.Backend.Cuda
    assert (device.id, device.name) == (again.id, again.name)
    assert not device.is_host_accessible
    assert device.total_bytes > 1 << 30
    properties = device.properties
    assert properties.uuid.startswith("GPU-")
    assert properties.pci_address.count(":") == 2
    assert properties.num_multiprocessors > 0
    assert properties.compute_capability >= 80
    assert properties.driver_version >= 12000
    assert device.can_address(0)
    with pytest.raises(kvbm.NotFoundError, match="99"):
        kvbm.cuda_device(99)
    with pytest.raises(kvbm.UnsupportedError, match=r"torch\.as_tensor"):
        device.empty(4)


def test_memory_is_a_tensor_without_a_copy(cuda_manager: kvbm.TransferManager, torch: Any) -> None:
    device = cuda_manager.device(0)
    before = device.used_bytes
    region = device.allocate(1 << 20)
    tensor = torch.as_tensor(region, device="cuda")
    assert tensor.data_ptr() == region.address
    assert tensor.shape == (1 << 20,)
    assert not tensor.any()
    with pytest.raises(kvbm.UnsupportedError, match="CPU cannot reach"):
        region.numpy()
    del region
    gc.collect()
    assert device.used_bytes > before
    tensor.fill_(7)
    assert int(tensor.sum()) == 7 << 20
    del tensor
    gc.collect()
    assert device.used_bytes == before


def test_memory_is_a_cupy_array_without_a_copy(
    cuda_manager: kvbm.TransferManager, cupy: Any
) -> None:
    region = cuda_manager.device(0).allocate(4096)
    array = cupy.asarray(region)
    assert array.data.ptr == region.address
    array[...] = 3
    assert int(array.sum()) == 3 * 4096


# Tensors of engines


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_torch_vllm_tensors_of_every_type(
    cuda_manager: kvbm.TransferManager, torch: Any, dtype: str
) -> None:
    width = TORCH_DTYPES[dtype]
    cache = random_cache(width=width)
    tensors = torch_cache(torch, cache, dtype)
    assert kvbm.TensorInfo.of(tensors[0]).dtype == dtype
    layout = kvbm.layout_from_tensors(cuda_manager, tensors, EngineDims.FLASH_ATTN)
    assert layout.storage_kind is kvbm.StorageKind.Device
    assert [region.address for region in layout.regions] == [t.data_ptr() for t in tensors]
    assert layout.format == NHD
    target = round_trip(cuda_manager, layout, wiper(torch, tensors))
    expect_universal(target, cache, width)
    for tensor, original in zip(tensors, cache, strict=True):
        np.testing.assert_array_equal(bits_of(tensor, width), original)


def test_torch_block_first_tensors(cuda_manager: kvbm.TransferManager, torch: Any) -> None:
    cache = random_cache()
    tensors = torch_cache(torch, [np.ascontiguousarray(t.swapaxes(0, 1)) for t in cache])
    named = {f"layer.{index}": tensor for index, tensor in enumerate(tensors)}
    layout = kvbm.layout_from_tensors(cuda_manager, named, EngineDims.FLASH_INFER)
    assert layout.block_dimension is kvbm.BlockDimension.First
    expect_universal(round_trip(cuda_manager, layout, wiper(torch, tensors)), cache)


def test_torch_hnd_memory_behind_an_nhd_view(
    cuda_manager: kvbm.TransferManager, torch: Any
) -> None:
    cache = random_cache()
    owners = torch_cache(torch, [np.ascontiguousarray(t.swapaxes(2, 3)) for t in cache])
    views = [tensor.permute(0, 1, 3, 2, 4) for tensor in owners]
    layout = kvbm.layout_from_tensors(cuda_manager, views, EngineDims.FLASH_ATTN)
    assert layout.format == kvbm.KvBlockLayout.OperationalHND
    expect_universal(round_trip(cuda_manager, layout, wiper(torch, owners)), cache)


def test_torch_sglang_pools(cuda_manager: kvbm.TransferManager, torch: Any) -> None:
    cache = random_cache()
    pools = [
        torch_cache(torch, [t[outer].reshape(-1, HEADS, HEAD_DIM).copy() for t in cache])
        for outer in range(OUTER)
    ]
    layout = kvbm.layout_from_kv_pools(cuda_manager, *pools, page_size=TOKENS)
    target = round_trip(cuda_manager, layout, wiper(torch, [*pools[0], *pools[1]]))
    # [nh, 2 nl, 1, nt, hd] is [nh, nl, 2, nt, hd].
    expect_universal(target, cache)


def test_torch_mla_tensors(cuda_manager: kvbm.TransferManager, torch: Any) -> None:
    random = torch.Generator("cuda").manual_seed(5)
    tensors = [
        torch.randn(BLOCKS, 64, 576, generator=random, device="cuda").to(torch.bfloat16)
        for _ in range(LAYERS)
    ]
    kept = [bits_of(tensor) for tensor in tensors]
    layout = kvbm.layout_from_tensors(cuda_manager, tensors, EngineDims.MLA)
    target_layout = (
        cuda_manager.layout_builder()
        .config(layout.config)
        .fully_contiguous()
        .allocate_pinned()
        .build()
    )
    source, target = (
        cuda_manager.register_layout(layout),
        cuda_manager.register_layout(target_layout),
    )
    cuda_manager.execute_transfer(source, ALL, target, SHUFFLED).wait(PATIENCE)
    found = target_layout.regions[0].numpy((BLOCKS, LAYERS, 64, 576), np.uint16)
    np.testing.assert_array_equal(found[SHUFFLED], np.stack(kept, axis=1))
    wiper(torch, tensors)()
    cuda_manager.execute_transfer(target, SHUFFLED, source, ALL).wait(PATIENCE)
    for tensor, original in zip(tensors, kept, strict=True):
        np.testing.assert_array_equal(bits_of(tensor), original)


def test_cupy_arrays_and_raw_addresses(cuda_manager: kvbm.TransferManager, cupy: Any) -> None:
    cache = random_cache()
    arrays = [cupy.asarray(tensor) for tensor in cache]
    cupy.cuda.Device().synchronize()
    info = kvbm.TensorInfo.of(arrays[0])
    assert (info.dtype, info.device_id, info.on_device) == ("uint16", 0, True)
    by_array = kvbm.layout_from_tensors(cuda_manager, arrays, EngineDims.FLASH_ATTN)
    raw = [(array.data.ptr, array.nbytes, 0, array) for array in arrays]
    builder = cuda_manager.layout_builder().config(config())
    builder = builder.layer_separate(kvbm.BlockDimension.Second, NHD)
    by_address = builder.with_external_device_regions(raw).build()
    for layout in (by_array, by_address):
        target_layout = pinned(cuda_manager, layout)
        source, target = (
            cuda_manager.register_layout(layout),
            cuda_manager.register_layout(target_layout),
        )
        cuda_manager.execute_transfer(source, ALL, target, SHUFFLED).wait(PATIENCE)
        expect_universal(target_layout, cache)


def test_wrong_memory_is_refused(cuda_manager: kvbm.TransferManager, torch: Any) -> None:
    cache = random_cache()
    tensors = torch_cache(torch, cache)
    builder = cuda_manager.layout_builder().config(config())
    builder = builder.layer_separate(kvbm.BlockDimension.Second, NHD)
    with pytest.raises(kvbm.InvalidArgumentError, match="with_external_device_regions"):
        builder.with_external_regions(tensors)
    with pytest.raises(kvbm.InvalidArgumentError, match="region 0"):
        builder.with_external_device_regions(cache).build()
    with pytest.raises(kvbm.InvalidArgumentError, match="says device 0, device_id is 1"):
        builder.with_external_device_regions(tensors, device_id=1)
    mixed = [*tensors[:2], tensors[2].cpu()]
    with pytest.raises(kvbm.InvalidArgumentError, match=r"tensors\[2\] has device 'host memory'"):
        kvbm.layout_from_tensors(cuda_manager, mixed, EngineDims.FLASH_ATTN)
    other = [*tensors[:2], tensors[2].view(torch.float16)]
    with pytest.raises(kvbm.InvalidArgumentError, match=r"tensors\[2\] has dtype 'float16'"):
        kvbm.layout_from_tensors(cuda_manager, other, EngineDims.FLASH_ATTN)
    with pytest.raises(kvbm.InvalidArgumentError, match="not C-contiguous"):
        builder.with_external_device_regions([tensor.transpose(3, 4) for tensor in tensors])


def test_layout_keeps_torch_memory(cuda_manager: kvbm.TransferManager, torch: Any) -> None:
    cache = random_cache()
    tensors = torch_cache(torch, cache)
    layout = kvbm.layout_from_tensors(cuda_manager, tensors, EngineDims.FLASH_ATTN)
    del tensors
    gc.collect()
    noise = [torch.full(SHAPE, 1, dtype=torch.bfloat16, device="cuda") for _ in range(64)]
    torch.cuda.synchronize()
    assert len(noise) == 64
    target_layout = pinned(cuda_manager, layout)
    source, target = (
        cuda_manager.register_layout(layout),
        cuda_manager.register_layout(target_layout),
    )
    cuda_manager.execute_transfer(source, ALL, target, SHUFFLED).wait(PATIENCE)
    expect_universal(target_layout, cache)


# Strategies


@pytest.mark.parametrize("strategy", ["DmaCopy", "SmCopy", "StagedDma"])
def test_every_way_brings_the_same_bytes(
    cuda_manager: kvbm.TransferManager, torch: Any, strategy: str
) -> None:
    cache = random_cache()
    tensors = torch_cache(torch, cache)
    layout = kvbm.layout_from_tensors(cuda_manager, tensors, EngineDims.FLASH_ATTN)
    options = kvbm.TransferOptions(strategy=strategy)
    target = round_trip(cuda_manager, layout, wiper(torch, tensors), options)
    expect_universal(target, cache)
    source, handle = cuda_manager.register_layout(layout), cuda_manager.register_layout(target)
    told = cuda_manager.explain_transfer(source, ALL, handle, ALL, options)
    assert told.strategy is kvbm.Strategy[strategy]
    assert [candidate.strategy for candidate in told.candidates] == list(kvbm.Strategy)


def test_pageable_memory_goes_through_pinned(
    cuda_manager: kvbm.TransferManager, torch: Any
) -> None:
    cache = random_cache()
    tensors = torch_cache(torch, cache)
    layout = kvbm.layout_from_tensors(cuda_manager, tensors, EngineDims.FLASH_ATTN)
    target_layout = contiguous(cuda_manager, config())
    source, target = (
        cuda_manager.register_layout(layout),
        cuda_manager.register_layout(target_layout),
    )
    cuda_manager.execute_transfer(source, ALL, target, SHUFFLED).wait(PATIENCE)
    expect_universal(target_layout, cache)


def test_limits_and_wishes_are_taken(cuda_manager: kvbm.TransferManager, torch: Any) -> None:
    cache = random_cache()
    tensors = torch_cache(torch, cache)
    layout = kvbm.layout_from_tensors(cuda_manager, tensors, EngineDims.FLASH_ATTN)
    for options in (
        kvbm.TransferOptions(max_sms=1),
        kvbm.TransferOptions(spare=kvbm.Spare.SpareSms),
        kvbm.TransferOptions(spare=kvbm.Spare.SpareCpu),
    ):
        expect_universal(round_trip(cuda_manager, layout, wiper(torch, tensors), options), cache)
        for tensor, original in zip(tensors, cache, strict=True):
            np.testing.assert_array_equal(bits_of(tensor), original)


def test_transfers_are_awaited_in_asyncio(cuda_manager: kvbm.TransferManager, torch: Any) -> None:
    cache = random_cache()
    layout = kvbm.layout_from_tensors(
        cuda_manager, torch_cache(torch, cache), EngineDims.FLASH_ATTN
    )
    target_layout = pinned(cuda_manager, layout)
    source, target = (
        cuda_manager.register_layout(layout),
        cuda_manager.register_layout(target_layout),
    )

    async def move() -> None:
        await asyncio.gather(
            *(
                _await(cuda_manager.execute_transfer(source, [a], target, [b]))
                for a, b in zip(ALL, SHUFFLED, strict=True)
            )
        )

    asyncio.run(move())
    expect_universal(target_layout, cache)


async def _await(done: kvbm.TransferCompleteNotification) -> None:
    await done
