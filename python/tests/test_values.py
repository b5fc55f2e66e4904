# SPDX-License-Identifier: Apache-2.0
"""Plain values: configs, formats, handles, checksums, options."""

from __future__ import annotations

import numpy as np
import pytest
from support import HEADS, LAYERS, config

import kvbm_cpp as kvbm


def test_config_has_the_fields_it_was_given() -> None:
    shape = config(num_blocks=5, width=4, alignment=64)
    assert shape.num_blocks == 5
    assert shape.num_layers == LAYERS
    assert shape.outer_dim == 2
    assert shape.page_size == 4
    assert shape.inner_dim == 32
    assert shape.num_heads == HEADS
    assert shape.head_dim == 8
    assert shape.alignment == 64
    assert shape.dtype_width_bytes == 4
    assert shape.chunk_bytes == 4 * 32 * 4
    assert shape.block_bytes == LAYERS * 2 * shape.chunk_bytes
    assert shape.with_num_blocks(7).num_blocks == 7
    assert shape.with_alignment(128).alignment == 128
    assert shape == config(num_blocks=5, width=4, alignment=64)
    assert hash(shape) == hash(config(num_blocks=5, width=4, alignment=64))
    assert shape != config(num_blocks=6, width=4, alignment=64)
    assert "num_blocks=5" in repr(shape)


def test_config_takes_numpy_integers() -> None:
    assert config(num_blocks=np.int64(3)).num_blocks == 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_blocks", 0),
        ("num_blocks", -1),
        ("num_blocks", 2**70),
        ("num_layers", 0),
        ("outer_dim", 3),
        ("page_size", 3),
        ("inner_dim", 0),
        ("num_heads", 5),
        ("alignment", 3),
        ("dtype_width_bytes", 3),
    ],
)
def test_bad_config_names_field_and_value(field: str, value: int) -> None:
    with pytest.raises(kvbm.InvalidArgumentError, match=rf"{field}.*{value}"):
        config(**{field: value})


def test_config_beyond_64_bits_overflows() -> None:
    with pytest.raises(kvbm.SizeOverflowError):
        config(num_blocks=2**31, num_layers=2**20, inner_dim=2**20, num_heads=None)


def test_config_of_a_wrong_type_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"num_blocks is 1\.5, must be an int"):
        config(num_blocks=1.5)  # type: ignore[arg-type]


def test_formats_compare_hash_and_parse() -> None:
    layer, outer, token, head, dim = (
        kvbm.BlockDim.Layer,
        kvbm.BlockDim.Outer,
        kvbm.BlockDim.Token,
        kvbm.BlockDim.Head,
        kvbm.BlockDim.HeadDim,
    )
    named = kvbm.KvBlockLayout.UniversalTP
    assert named.order == (head, layer, outer, token, dim)
    assert named.is_universal
    assert not named.is_operational
    custom = kvbm.KvBlockLayout.Custom([head, layer, outer, token, dim])
    assert custom == named
    assert hash(custom) == hash(named)
    assert named != kvbm.KvBlockLayout.OperationalNHD
    assert named != "UniversalTP"
    other = kvbm.KvBlockLayout.Custom([token, layer, outer, head, dim])
    assert kvbm.KvBlockLayout.parse(str(other)) == other
    assert kvbm.KvBlockLayout.Unknown.order is None
    with pytest.raises(ValueError, match="Sideways"):
        kvbm.KvBlockLayout.parse("Sideways")
    with pytest.raises(kvbm.InvalidArgumentError):
        kvbm.KvBlockLayout.Custom([head, head, outer, token, dim])
    with pytest.raises(kvbm.InvalidArgumentError, match="must have 5"):
        kvbm.KvBlockLayout.Custom([head])


def test_formats_know_when_bytes_move() -> None:
    nhd, hnd = kvbm.KvBlockLayout.OperationalNHD, kvbm.KvBlockLayout.OperationalHND
    assert nhd.requires_transform(hnd)
    assert not nhd.requires_transform(nhd)
    assert not nhd.requires_transform(hnd, config(num_heads=1))
    assert nhd.requires_transform(kvbm.KvBlockLayout.Unknown)


def test_formats_state_their_strides() -> None:
    strides, footprint = kvbm.KvBlockLayout.OperationalNHD.strides(config(width=2))
    assert footprint == config(width=2).block_bytes
    assert strides == (2 * 4 * 4 * 8 * 2, 4 * 4 * 8 * 2, 4 * 8 * 2, 8 * 2, 2)
    again = kvbm.KvBlockLayout.Strided(list(strides), footprint)
    assert again.strides(config(width=2)) == (strides, footprint)


def test_handles_go_through_128_bits() -> None:
    handle = kvbm.LayoutHandle(0x1122334455667788, 0xABCD)
    assert handle.to_u128() == (0xABCD << 64) | 0x1122334455667788
    assert kvbm.LayoutHandle.from_u128(handle.to_u128()) == handle
    full = 2**128 - 1
    assert kvbm.LayoutHandle.from_u128(full).to_u128() == full
    assert kvbm.LayoutHandle.from_u128(full).reserved_bits == 2**48 - 1
    assert str(handle) == "LayoutHandle(worker=1234605616436508552, layout=43981)"
    for bad in (-1, 2**128):
        with pytest.raises(kvbm.InvalidArgumentError, match=str(bad)):
            kvbm.LayoutHandle.from_u128(bad)


def test_handles_are_ordered_and_hashable() -> None:
    first, second = kvbm.LayoutHandle(1, 0), kvbm.LayoutHandle(1, 1)
    assert first < second
    assert second >= first
    assert len({first, second, kvbm.LayoutHandle(1, 0)}) == 2
    assert first != 1


def test_checksums_have_text_bytes_and_number() -> None:
    # XXH3-128 of nothing, a published constant.
    empty = kvbm.checksum_bytes(b"")
    assert str(empty) == "99aa06d3014798d86001c324468d497f"
    assert empty.hex() == str(empty)
    assert bytes(empty).hex() == str(empty)
    assert int(empty) == int(str(empty), 16)
    assert kvbm.Checksum(str(empty)) == empty
    assert kvbm.Checksum(int(empty)) == empty
    assert hash(kvbm.Checksum(str(empty))) == hash(empty)
    assert kvbm.checksum_bytes(np.arange(3)) != empty
    with pytest.raises(kvbm.InvalidArgumentError, match="32 hexadecimal digits"):
        kvbm.Checksum("99")


def test_options_keep_what_they_were_given() -> None:
    options = kvbm.TransferOptions(
        layer_range=range(1, 3),
        head_range=(0, 2),
        src_kv_layout=kvbm.KvBlockLayout.OperationalHND,
        timeout=1.5,
        priority=3,
        spare=kvbm.Spare.SpareCpu,
    )
    assert options.layer_range == range(1, 3)
    assert options.src_head_range == range(2)
    assert options.dst_head_range == range(2)
    assert options.src_kv_layout == kvbm.KvBlockLayout.OperationalHND
    assert options.dst_kv_layout is None
    assert options.timeout == 1.5
    assert options.priority == 3
    assert options.spare is kvbm.Spare.SpareCpu
    assert kvbm.TransferOptions().timeout is None


def test_bad_options_are_refused() -> None:
    with pytest.raises(kvbm.InvalidArgumentError, match="both sides"):
        kvbm.TransferOptions(head_range=(0, 1), src_head_range=(0, 1))
    with pytest.raises(kvbm.InvalidArgumentError, match="step"):
        kvbm.TransferOptions(layer_range=range(0, 4, 2))
    with pytest.raises(kvbm.InvalidArgumentError, match="timeout"):
        kvbm.TransferOptions(timeout=0.0)
    with pytest.raises(kvbm.InvalidArgumentError, match="timeout"):
        kvbm.TransferOptions(timeout=float("nan"))
    with pytest.raises(TypeError, match="layer_range"):
        kvbm.TransferOptions(layer_range=3)  # type: ignore[arg-type]
    with pytest.raises(kvbm.InvalidArgumentError, match="layer_range"):
        kvbm.TransferOptions(layer_range=(-1, 2))


def test_capabilities_and_preferences_are_values() -> None:
    assert not kvbm.TransferCapabilities().allow_gds
    assert kvbm.TransferCapabilities(allow_gds=True).allow_gds
    assert kvbm.TransferCapabilities() == kvbm.TransferCapabilities(allow_gpu_rdma=False)
    policy = kvbm.NativeVsNixlPolicy.PreferNative
    assert kvbm.TransferPreferences(native_vs_nixl=policy).native_vs_nixl is policy


def test_fill_patterns_are_values() -> None:
    pattern = kvbm.FillPattern(kvbm.FillPattern.Kind.Constant, 7)
    assert pattern.kind is kvbm.FillPattern.Kind.Constant
    assert pattern.value == 7
    with pytest.raises(kvbm.InvalidArgumentError, match="value is -1"):
        kvbm.FillPattern(value=-1)


def test_engine_tensors_describe_themselves() -> None:
    dim = kvbm.Dim
    tensor = kvbm.KvDimLayout(
        [(dim.Outer, 2), (dim.Block, 6), (dim.Token, 4), (dim.Head, 4), (dim.Payload, 8)], 2
    )
    assert tensor.extent(dim.Block) == 6
    assert tensor.stride(dim.Token) == 4 * 8 * 2
    assert tensor.bytes == 2 * 6 * 4 * 4 * 8 * 2
    assert tensor.config(3) == config(num_blocks=6)
    with pytest.raises(kvbm.InvalidArgumentError):
        kvbm.KvDimLayout([(dim.Payload, 8)], 2)


def test_version_is_the_package_version() -> None:
    assert kvbm.__version__ == kvbm.version()
    assert kvbm.version().count(".") == 2
