# SPDX-License-Identifier: Apache-2.0
"""Layouts over the caches of engines: shapes, strides and dtypes as vLLM and SGLang have them."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import (
    HEAD_DIM,
    HEADS,
    LAYERS,
    NHD,
    OUTER,
    TOKENS,
    config,
    contiguous,
    random_cache,
    universal_tp_array,
    universal_tp_of,
)

import kvbm_cpp as kvbm
from kvbm_cpp import EngineDims

BLOCKS = 6
ALL = list(range(BLOCKS))


class TorchLike:
    """What kvbm asks of a torch tensor, over numpy memory: torch itself is not needed."""

    def __init__(self, array: NDArray[Any], dtype: str = "torch.bfloat16", device: str = "cpu"):
        self.array = array
        self.dtype = dtype
        kind, _, index = device.partition(":")
        self.device = SimpleNamespace(type=kind, index=int(index) if index else None)
        self.shape = array.shape

    def data_ptr(self) -> int:
        return int(self.array.ctypes.data)

    def element_size(self) -> int:
        return self.array.itemsize

    def stride(self) -> tuple[int, ...]:
        return tuple(stride // self.array.itemsize for stride in self.array.strides)


def numbers(shape: tuple[int, ...], seed: int) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 1 << 16, shape, np.uint16)


def universal_of(
    manager: kvbm.TransferManager, layout: kvbm.PhysicalLayout
) -> tuple[kvbm.LayoutHandle, kvbm.PhysicalLayout]:
    """Every block of a layout, moved to a UniversalTP one of the same shape."""
    source = manager.register_layout(layout)
    target_layout = contiguous(manager, layout.config.with_num_blocks(BLOCKS))
    target = manager.register_layout(target_layout)
    manager.execute_transfer(source, ALL, target, ALL).wait()
    return source, target_layout


def expect_blocks(layout: kvbm.PhysicalLayout, cache: list[NDArray[Any]]) -> None:
    for block in ALL:
        np.testing.assert_array_equal(
            universal_tp_array(layout)[block], universal_tp_of(cache, block)
        )


def test_vllm_block_second_tensors(manager: kvbm.TransferManager) -> None:
    cache = random_cache()
    layout = kvbm.layout_from_tensors(manager, cache, EngineDims.FLASH_ATTN, page_size=TOKENS)
    assert layout.config == config()
    assert layout.format == NHD
    assert layout.block_dimension is kvbm.BlockDimension.Second
    assert [region.address for region in layout.regions] == [t.ctypes.data for t in cache]
    _, target = universal_of(manager, layout)
    expect_blocks(target, cache)


def test_vllm_block_first_tensors_in_a_mapping(manager: kvbm.TransferManager) -> None:
    cache = random_cache()
    engine = {f"layer.{i}": np.ascontiguousarray(t.swapaxes(0, 1)) for i, t in enumerate(cache)}
    layout = kvbm.layout_from_tensors(manager, engine, EngineDims.FLASH_INFER)
    assert layout.config == config()
    assert layout.format == NHD
    assert layout.block_dimension is kvbm.BlockDimension.First
    _, target = universal_of(manager, layout)
    expect_blocks(target, cache)


def test_hnd_memory_behind_an_nhd_shape(manager: kvbm.TransferManager) -> None:
    # vLLM permutes a view so that the shape is NHD whatever the memory is.
    cache = random_cache()
    engine = [np.ascontiguousarray(t.swapaxes(2, 3)).swapaxes(2, 3) for t in cache]
    assert engine[0].shape == cache[0].shape
    layout = kvbm.layout_from_tensors(manager, engine, EngineDims.FLASH_ATTN)
    assert layout.format == kvbm.KvBlockLayout.OperationalHND
    _, target = universal_of(manager, layout)
    expect_blocks(target, cache)


def test_padded_tensors_are_read_by_their_strides(manager: kvbm.TransferManager) -> None:
    cache = random_cache()
    wide = [np.zeros((OUTER, BLOCKS, TOKENS + 1, HEADS, HEAD_DIM), np.uint16) for _ in cache]
    for padded, tensor in zip(wide, cache, strict=True):
        padded[:, :, :TOKENS] = tensor
    engine = [tensor[:, :, :TOKENS] for tensor in wide]
    source, target = universal_of(
        manager, kvbm.layout_from_tensors(manager, engine, EngineDims.FLASH_ATTN)
    )
    expect_blocks(target, cache)
    for tensor in wide:
        tensor[:, :, :TOKENS] = 0
    back = manager.register_layout(target)
    manager.execute_transfer(back, ALL, source, ALL).wait()
    for padded, tensor in zip(wide, cache, strict=True):
        np.testing.assert_array_equal(padded[:, :, :TOKENS], tensor)
        assert not padded[:, :, TOKENS:].any()


@pytest.mark.parametrize("dtype", ["torch.bfloat16", "torch.float8_e4m3fn"])
def test_torch_tensors_of_types_that_others_lack(manager: kvbm.TransferManager, dtype: str) -> None:
    cache = random_cache()
    engine = [TorchLike(tensor, dtype) for tensor in cache]
    info = kvbm.TensorInfo.of(engine[0])
    assert info.dtype == dtype.removeprefix("torch.")
    assert info.address == cache[0].ctypes.data
    assert info.strides == cache[0].strides
    assert not info.on_device
    _, target = universal_of(
        manager, kvbm.layout_from_tensors(manager, engine, EngineDims.FLASH_ATTN)
    )
    expect_blocks(target, cache)
    builder = manager.layout_builder().config(config())
    builder = builder.layer_separate(kvbm.BlockDimension.Second, NHD)
    assert builder.with_external_regions(engine).build().format == NHD


def test_sglang_pools_of_k_and_v(manager: kvbm.TransferManager) -> None:
    cache = random_cache()
    pools = [[t[o].reshape(-1, HEADS, HEAD_DIM).copy() for t in cache] for o in range(OUTER)]
    layout = kvbm.layout_from_kv_pools(manager, *pools, page_size=TOKENS)
    assert layout.config.num_layers == 2 * LAYERS
    assert layout.config.outer_dim == 1
    assert layout.config.num_blocks == BLOCKS
    source, target = universal_of(manager, layout)
    # The same bytes as with outer_dim 2: [nh, 2 nl, 1, nt, hd] is [nh, nl, 2, nt, hd].
    expect_blocks(target, cache)

    # Model layer 1 alone, backwards, is layers 2 and 3.
    for tensor in (*pools[0], *pools[1]):
        tensor[...] = 0
    back = manager.register_layout(target)
    options = kvbm.TransferOptions(layer_range=(2, 4))
    manager.execute_transfer(back, ALL, source, ALL, options).wait()
    for layer in range(LAYERS):
        for outer in range(OUTER):
            expected = cache[layer][outer].reshape(-1, HEADS, HEAD_DIM)
            found = pools[outer][layer]
            np.testing.assert_array_equal(found, expected if layer == 1 else 0 * expected)


def test_sglang_pool_alone_is_a_layout_too(manager: kvbm.TransferManager) -> None:
    pools = [numbers((BLOCKS * TOKENS, HEADS, HEAD_DIM), seed) for seed in range(LAYERS)]
    layout = kvbm.layout_from_tensors(manager, pools, EngineDims.TOKEN_POOL, page_size=TOKENS)
    assert layout.config == config(outer_dim=1)
    assert layout.format == NHD
    _, target = universal_of(manager, layout)
    shape = (BLOCKS, HEADS, LAYERS, TOKENS, HEAD_DIM)
    expected = np.stack(pools).reshape(LAYERS, BLOCKS, TOKENS, HEADS, HEAD_DIM)
    found = target.regions[0].numpy(shape, np.uint16)
    np.testing.assert_array_equal(found, expected.transpose(1, 3, 0, 2, 4))


def test_mla_tensors(manager: kvbm.TransferManager) -> None:
    latent = 576
    cache = [numbers((BLOCKS, TOKENS, latent), seed) for seed in range(LAYERS)]
    layout = kvbm.layout_from_tensors(manager, cache, EngineDims.MLA)
    assert layout.config.outer_dim == 1
    assert layout.config.inner_dim == latent
    assert layout.config.num_heads is None
    source = manager.register_layout(layout)
    target_layout = (
        manager.layout_builder().config(layout.config).fully_contiguous().allocate_pinned().build()
    )
    target = manager.register_layout(target_layout)
    manager.execute_transfer(source, ALL, target, ALL[::-1]).wait()
    found = target_layout.regions[0].numpy((BLOCKS, LAYERS, TOKENS, latent), np.uint16)
    np.testing.assert_array_equal(found[::-1], np.stack(cache, axis=1))


def test_tensors_in_memory_of_a_device(manager: kvbm.TransferManager) -> None:
    device = manager.device(1)
    cache = random_cache()
    engine = [device.empty(tensor.shape, np.uint16) for tensor in cache]
    for tensor, values in zip(engine, cache, strict=True):
        tensor[...] = values
    layout = kvbm.layout_from_tensors(manager, engine, EngineDims.FLASH_ATTN, device_id=1)
    assert layout.storage_kind is kvbm.StorageKind.Device
    assert layout.device_id == 1
    _, target = universal_of(manager, layout)
    expect_blocks(target, cache)
    with pytest.raises(kvbm.InvalidArgumentError, match="region 0"):
        kvbm.layout_from_tensors(manager, engine, EngineDims.FLASH_ATTN, device_id=0)


def test_axes_of_one_element(manager: kvbm.TransferManager) -> None:
    # One block, one head: their strides say nothing, and libraries write anything there.
    cache = numbers((OUTER, 1, TOKENS, 1, HEAD_DIM), 3)
    strides = (cache.strides[0], 2, cache.strides[2], 6, 2)
    odd = np.lib.stride_tricks.as_strided(cache, cache.shape, strides)
    layout = kvbm.layout_from_tensors(manager, [odd], EngineDims.FLASH_ATTN)
    source = manager.register_layout(layout)
    target_layout = contiguous(manager, layout.config, NHD)
    target = manager.register_layout(target_layout)
    manager.execute_transfer(source, [0], target, [0]).wait()
    found = target_layout.regions[0].numpy(cache.shape, np.uint16)
    np.testing.assert_array_equal(found, cache)


def test_layout_keeps_the_tensors_alive(manager: kvbm.TransferManager) -> None:
    cache = random_cache()
    watched = [weakref.ref(tensor) for tensor in cache]
    layout = kvbm.layout_from_tensors(manager, cache, EngineDims.FLASH_ATTN)
    del cache
    gc.collect()
    assert all(reference() is not None for reference in watched)
    del layout
    gc.collect()
    assert all(reference() is None for reference in watched)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.flags.writeable = False
    return array


SHAPE = (OUTER, BLOCKS, TOKENS, HEADS, HEAD_DIM)


@pytest.mark.parametrize(
    ("tensors", "arguments", "message"),
    [
        ([], {}, "tensors is empty"),
        (
            [numbers(SHAPE, 1), numbers((OUTER, BLOCKS + 1, *SHAPE[2:]), 2)],
            {},
            r"tensors\[1\] has shape \(2, 7, 4, 4, 8\), tensors\[0\] has \(2, 6, 4, 4, 8\)",
        ),
        (
            [TorchLike(numbers(SHAPE, 1)), TorchLike(numbers(SHAPE, 1), "torch.float16")],
            {},
            r"tensors\[1\] has dtype 'float16', tensors\[0\] has 'bfloat16'",
        ),
        (
            [numbers(SHAPE, 1), numbers(SHAPE, 2).swapaxes(3, 2)],
            {},
            r"tensors\[1\] has strides \(bytes\) \(1536, 256, 16, 64, 2\)",
        ),
        (
            [TorchLike(numbers(SHAPE, 1), device="cuda:0"), TorchLike(numbers(SHAPE, 1))],
            {},
            r"tensors\[1\] has device 'host memory', tensors\[0\] has 'device 0'",
        ),
        (
            [TorchLike(numbers(SHAPE, 1), device="cuda:1")],
            {"device_id": 0},
            "device_id is 0, but the tensors are on device 1",
        ),
        ([numbers(SHAPE[1:], 1)], {}, "4 axes, but dims names 5: Outer, Block, Token"),
        ([numbers(SHAPE, 1)], {"page_size": 16}, "page_size is 16, .*have 4 tokens in a block"),
        ([numbers((3, *SHAPE[1:]), 1)], {}, "at most 2"),
        ([numbers(SHAPE, 1).swapaxes(3, 4)], {}, "payload is not contiguous"),
        ([numbers(SHAPE, 1)[:, ::-1]], {}, "negative"),
        ([np.broadcast_to(numbers(SHAPE[1:], 1), SHAPE).copy()[:, :0]], {}, "no elements"),
        ([read_only(numbers(SHAPE, 1))], {}, r"tensors\[0\] is read-only"),
        ([numbers(SHAPE, 1).astype(np.complex128)], {}, "element_bytes must be 1, 2, 4 or 8"),
    ],
)
def test_what_is_wrong_with_a_tensor_is_named(
    manager: kvbm.TransferManager, tensors: list[Any], arguments: Any, message: str
) -> None:
    with pytest.raises(kvbm.InvalidArgumentError, match=message):
        kvbm.layout_from_tensors(manager, tensors, EngineDims.FLASH_ATTN, **arguments)


def test_what_is_wrong_with_pools_is_named(manager: kvbm.TransferManager) -> None:
    pool = [numbers((30, HEADS, HEAD_DIM), 1)]
    with pytest.raises(kvbm.InvalidArgumentError, match=r"30 tokens.*pass tensor\[:28\]"):
        kvbm.layout_from_kv_pools(manager, pool, [numbers((30, HEADS, HEAD_DIM), 2)], page_size=4)
    with pytest.raises(kvbm.InvalidArgumentError, match="say with page_size"):
        kvbm.layout_from_kv_pools(manager, pool, pool)
    with pytest.raises(kvbm.InvalidArgumentError, match="keys has 1 tensors, values has 2"):
        kvbm.layout_from_kv_pools(manager, pool, pool * 2, page_size=2)
    short = [numbers((28, HEADS, HEAD_DIM), 2)]
    with pytest.raises(kvbm.InvalidArgumentError, match=r"values\[0\] has shape .* keys\[0\] has"):
        kvbm.layout_from_kv_pools(manager, pool, short, page_size=2)
    with pytest.raises(kvbm.InvalidArgumentError, match="dims has Outer"):
        kvbm.layout_from_kv_pools(manager, pool, pool, EngineDims.FLASH_ATTN)
    with pytest.raises(kvbm.InvalidArgumentError, match="overlap"):
        kvbm.layout_from_kv_pools(manager, pool, pool, page_size=2)


def test_what_is_no_list_of_tensors_is_refused(manager: kvbm.TransferManager) -> None:
    tensor: Any = numbers(SHAPE, 1)
    for wrong in (tensor, (tensor,), [(4096, 4096)], ["text"], [None]):
        with pytest.raises(TypeError, match="tensors"):
            kvbm.layout_from_tensors(manager, wrong, EngineDims.FLASH_ATTN)
    with pytest.raises(TypeError, match="only cpu and cuda"):
        kvbm.TensorInfo.of(TorchLike(tensor, device="meta"))


def test_tensor_info_tells_what_is_seen() -> None:
    array = numbers((3, 4), 1)
    info = kvbm.TensorInfo.of(array.T)
    assert info.address == array.ctypes.data
    assert info.shape == (4, 3)
    assert info.strides == (2, 8)
    assert (info.bytes, info.item_bytes, info.dtype) == (24, 2, "uint16")
    assert info.is_writable
    assert not info.is_contiguous
    assert info.device_id is None
    assert "uint16 (4, 3), host" in repr(info)
    raw = kvbm.TensorInfo.of((4096, 64, 1))
    assert (raw.bytes, raw.device_id, raw.dtype, raw.shape) == (64, 1, "", (64,))
