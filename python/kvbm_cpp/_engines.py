# SPDX-License-Identifier: Apache-2.0
"""Layouts over the KV caches that inference engines keep, without copying them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from kvbm_cpp._errors import InvalidArgumentError
from kvbm_cpp._kvbm_cpp import (
    Dim,
    KvDimLayout,
    PhysicalLayout,
    StorageKind,
    TensorInfo,
    TransferManager,
)
from kvbm_cpp._types import TensorLike

#: One tensor a layer, in layer order; a mapping (layer name to tensor) in its own order.
Tensors: TypeAlias = Iterable[TensorLike] | Mapping[str, TensorLike]


class EngineDims:
    """What the axes of one layer's tensor are, as engines order `tensor.shape`."""

    #: [2, num_blocks, tokens, heads, head_dim]: vLLM with flash-attn
    FLASH_ATTN = (Dim.Outer, Dim.Block, Dim.Token, Dim.Head, Dim.HeadDim)
    #: [num_blocks, 2, tokens, heads, head_dim]: vLLM with FlashInfer or Triton
    FLASH_INFER = (Dim.Block, Dim.Outer, Dim.Token, Dim.Head, Dim.HeadDim)
    #: [num_tokens, heads, head_dim]: one of SGLang's pools, with `page_size`
    TOKEN_POOL = (Dim.Token, Dim.Head, Dim.HeadDim)
    #: [num_blocks, tokens, heads, head_dim]: K or V alone, or both in one row
    PAGED = (Dim.Block, Dim.Token, Dim.Head, Dim.HeadDim)
    #: [num_blocks, tokens, latent]: MLA
    MLA = (Dim.Block, Dim.Token, Dim.HeadDim)


def layout_from_tensors(
    manager: TransferManager,
    tensors: Tensors,
    dims: Sequence[Dim],
    *,
    page_size: int | None = None,
    kind: StorageKind = StorageKind.System,
    device_id: int | None = None,
) -> PhysicalLayout:
    """Makes a layout of an engine's KV cache: one tensor a layer, nothing is copied.

    Strides come from the tensors, so views that name their axes in another order than the memory
    has them (HND memory behind an NHD shape) are read rightly. The layout keeps the tensors alive.

    dims       what tensor.shape means, e.g. EngineDims.FLASH_ATTN
    page_size  tokens in a block, for tensors without a block axis: their tokens become
               num_tokens / page_size blocks; else checked against the tensor
    kind       of host tensors: System, or Pinned where the memory is page-locked
    device_id  for tensors whose library does not say which device they are on, and for memory
               of an emulated device

    Raises InvalidArgumentError that names the tensor and what is wrong: another shape, dtype,
    stride or device than the first one's, an axis too many, elements apart.
    """
    given = _as_list(tensors, "tensors")
    infos = [_inspect(tensor, f"tensors[{index}]") for index, tensor in enumerate(given)]
    _check_alike(infos, "tensors")
    tensor = _tensor_dims(infos[0], tuple(dims), page_size)
    return _build(manager, given, infos, tensor, kind, device_id)


def layout_from_kv_pools(
    manager: TransferManager,
    keys: Tensors,
    values: Tensors,
    dims: Sequence[Dim] = EngineDims.TOKEN_POOL,
    *,
    page_size: int | None = None,
    kind: StorageKind = StorageKind.System,
    device_id: int | None = None,
) -> PhysicalLayout:
    """Makes one layout of K and V that are tensors of their own, as SGLang's pools are.

    A layout has one region a layer, so K and V of model layer i become its layers 2 i and
    2 i + 1, with outer_dim 1: layer_range (2 i, 2 j) means the model's layers i to j. In NHD, HND
    and UniversalTP a block's bytes are the same as with outer_dim 2, so both sides of a transfer
    are given that shape: `layout.config.with_num_blocks(n)` for the other one.

    keys, values  one tensor each a layer, all of one shape, e.g. [num_tokens, heads, head_dim]
    dims, page_size, kind, device_id  as in layout_from_tensors
    """
    k, v = _as_list(keys, "keys"), _as_list(values, "values")
    if len(k) != len(v):
        raise InvalidArgumentError(f"keys has {len(k)} tensors, values has {len(v)}: one a layer")
    k_infos = [_inspect(tensor, f"keys[{index}]") for index, tensor in enumerate(k)]
    v_infos = [_inspect(tensor, f"values[{index}]") for index, tensor in enumerate(v)]
    _check_alike(k_infos, "keys")
    _check_alike([k_infos[0], *v_infos], "values", first="keys[0]")
    if Dim.Outer in dims:
        raise InvalidArgumentError("dims has Outer, but K and V are tensors of their own")
    tensor = _tensor_dims(k_infos[0], tuple(dims), page_size)
    given = [tensor for pair in zip(k, v, strict=True) for tensor in pair]
    infos = [info for pair in zip(k_infos, v_infos, strict=True) for info in pair]
    return _build(manager, given, infos, tensor, kind, device_id)


def _as_list(tensors: Tensors, name: str) -> list[TensorLike]:
    if isinstance(tensors, tuple) or hasattr(tensors, "shape"):
        raise TypeError(f"{name} must be a list or mapping with one tensor a layer")
    given = list(tensors.values() if isinstance(tensors, Mapping) else tensors)
    if not given:
        raise InvalidArgumentError(f"{name} is empty, must have one tensor a layer")
    return given


def _inspect(tensor: TensorLike, where: str) -> TensorInfo:
    if isinstance(tensor, tuple):
        raise TypeError(
            f"{where} is raw memory without a shape: use layer_separate(KvDimLayout(...)) and "
            "with_external_regions() or with_external_device_regions()"
        )
    info = TensorInfo.of(tensor, where)
    if not info.is_writable:
        raise InvalidArgumentError(f"{where} is read-only, and a layout's memory gets written")
    if not info.bytes:
        raise InvalidArgumentError(f"{where} has no elements: its shape is {info.shape}")
    return info


def _check_alike(infos: Sequence[TensorInfo], name: str, first: str | None = None) -> None:
    """Every layer's tensor must be like the first one; `first` names one from another list."""
    expected = infos[0]
    for index, info in enumerate(infos):
        place = f"{name}[{index}]" if first is None else f"{name}[{index - 1}]"
        for field, found, wanted in (
            ("dtype", info.dtype, expected.dtype),
            ("shape", info.shape, expected.shape),
            ("strides (bytes)", _real_strides(info), _real_strides(expected)),
            ("device", _device(info), _device(expected)),
        ):
            if found != wanted:
                raise InvalidArgumentError(
                    f"{place} has {field} {_show(found)}, {first or f'{name}[0]'} has "
                    f"{_show(wanted)}: the tensors of all layers must be alike"
                )


def _real_strides(info: TensorInfo) -> tuple[int, ...]:
    """Strides of axes that have more than one element; those of others mean nothing."""
    pairs = zip(info.shape, info.strides, strict=True)
    return tuple(stride if extent > 1 else 0 for extent, stride in pairs)


def _device(info: TensorInfo) -> str:
    if not info.on_device:
        return "host memory"
    return "device ?" if info.device_id is None else f"device {info.device_id}"


def _show(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


def _tensor_dims(info: TensorInfo, dims: tuple[Dim, ...], page_size: int | None) -> KvDimLayout:
    """The tensor's axes from the outermost in memory to the innermost."""
    if len(dims) != len(info.shape):
        named = ", ".join(dim.name for dim in dims)
        raise InvalidArgumentError(
            f"the tensors have shape {info.shape}, {len(info.shape)} axes, but dims names "
            f"{len(dims)}: {named}"
        )
    axes = list(zip(dims, info.shape, info.strides, strict=True))
    if page_size is not None and page_size < 1:
        raise InvalidArgumentError(f"page_size is {page_size}, must be at least 1")
    if Dim.Block not in dims:
        axes = _cut_into_pages(axes, page_size)
    elif page_size is not None:
        tokens = dict(zip(dims, info.shape, strict=True)).get(Dim.Token, 1)
        if tokens != page_size:
            raise InvalidArgumentError(
                f"page_size is {page_size}, but the tensors of shape {info.shape} have {tokens} "
                "tokens in a block"
            )
    # Axes of one element have no place in memory of their own: outside of all others.
    alone = [(dim, extent) for dim, extent, _ in axes if extent == 1 and dim != Dim.HeadDim]
    spread = [axis for axis in axes if axis[1] > 1 or axis[0] == Dim.HeadDim]
    for dim, extent, stride in spread:
        if extent > 1 and stride <= 0:
            raise InvalidArgumentError(
                f"the tensors' stride along {dim.name} is {stride} bytes: their elements overlap "
                "or run backwards"
            )
    spread.sort(key=lambda axis: (axis[0] == Dim.HeadDim, -axis[2]))
    return KvDimLayout(
        [*alone, *((d, e, s) if e > 1 else (d, e) for d, e, s in spread)], info.item_bytes
    )


def _cut_into_pages(
    axes: list[tuple[Dim, int, int]], page_size: int | None
) -> list[tuple[Dim, int, int]]:
    """Splits the axis of tokens into blocks of page_size tokens."""
    if page_size is None:
        raise InvalidArgumentError("dims has no Block: say with page_size how many tokens one has")
    cut: list[tuple[Dim, int, int]] = []
    for dim, extent, stride in axes:
        if dim != Dim.Token:
            cut.append((dim, extent, stride))
            continue
        if extent % page_size:
            raise InvalidArgumentError(
                f"the tensors have {extent} tokens, no multiple of page_size {page_size}: pass "
                f"tensor[:{extent // page_size * page_size}]"
            )
        cut += [(Dim.Block, extent // page_size, stride * page_size), (dim, page_size, stride)]
    return cut


def _build(
    manager: TransferManager,
    given: Sequence[TensorLike],
    infos: Sequence[TensorInfo],
    tensor: KvDimLayout,
    kind: StorageKind,
    device_id: int | None,
) -> PhysicalLayout:
    builder = manager.layout_builder().config(tensor.config(len(given))).layer_separate(tensor)
    pairs = list(zip(infos, given, strict=True))
    if infos[0].on_device or device_id is not None:
        known = infos[0].device_id
        if device_id is not None and known is not None and known != device_id:
            raise InvalidArgumentError(
                f"device_id is {device_id}, but the tensors are on device {known}"
            )
        place = next(id for id in (device_id, known, 0) if id is not None)
        return builder.with_external_device_regions(
            [(info.address, info.bytes, place, owner) for info, owner in pairs], device_id=place
        ).build()
    return builder.with_external_regions(
        [(info.address, info.bytes, None, owner) for info, owner in pairs], kind=kind
    ).build()
