# SPDX-License-Identifier: Apache-2.0
"""The KV cache as an engine keeps it: per layer one paged NHD tensor, blocks of 16 tokens."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

BLOCK_TOKENS = 16

Allocate = Callable[[tuple[int, ...], np.dtype], np.ndarray]


class BlockDimension(enum.Enum):
    """Where the block index stands in a layer's tensor."""

    BLOCK_FIRST = "block-first"  # [num_blocks, 2, 16, num_kv_heads, head_dim]
    BLOCK_SECOND = "block-second"  # [2, num_blocks, 16, num_kv_heads, head_dim]


def allocate_in_numpy(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The allocator for use without kvbm: ordinary process memory."""
    return np.empty(shape, dtype=dtype)


class PagedCache:
    """Paged K and V of one sequence.

    Logical block i holds the tokens [16 i, 16 i + 16) and lives in physical block block_table[i] of
    every layer. The table is a shuffled permutation, so that nothing works by accident of order.

    Ownership  the tensors come from `allocate` and are kept alive by this object.
    Threads    not safe for concurrent use.
    """

    def __init__(
        self,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        num_blocks: int,
        *,
        block_dimension: BlockDimension = BlockDimension.BLOCK_SECOND,
        dtype: DTypeLike = np.float32,
        allocate: Allocate = allocate_in_numpy,
        shuffle_seed: int = 0,
    ):
        """Calls allocate(shape, dtype) once per layer, in layer order.

        @param allocate  must return a writable C-contiguous array of that shape and dtype
        @param shuffle_seed  seed of the block table's permutation
        """
        for name, value in (
            ("num_layers", num_layers),
            ("num_kv_heads", num_kv_heads),
            ("head_dim", head_dim),
            ("num_blocks", num_blocks),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}, must be at least 1")
        self.num_layers = num_layers
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.num_blocks = num_blocks
        self.block_dimension = block_dimension
        self.dtype = np.dtype(dtype)
        inner = (BLOCK_TOKENS, num_kv_heads, head_dim)
        if block_dimension is BlockDimension.BLOCK_FIRST:
            self.shape: tuple[int, ...] = (num_blocks, 2, *inner)
        else:
            self.shape = (2, num_blocks, *inner)
        self.layers: list[np.ndarray] = [
            self._checked(allocate(self.shape, self.dtype), layer) for layer in range(num_layers)
        ]
        # K and V apart, [num_blocks, 16, num_kv_heads, head_dim] views in either order.
        block_first = block_dimension is BlockDimension.BLOCK_FIRST
        self._k = [tensor[:, 0] if block_first else tensor[0] for tensor in self.layers]
        self._v = [tensor[:, 1] if block_first else tensor[1] for tensor in self.layers]
        self.block_table: NDArray[np.int64] = (
            np.random.default_rng(shuffle_seed).permutation(num_blocks).astype(np.int64)
        )

    @property
    def capacity_tokens(self) -> int:
        """Number of token positions that the cache can hold."""
        return self.num_blocks * BLOCK_TOKENS

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers, K and V together."""
        inner = BLOCK_TOKENS * self.num_kv_heads * self.head_dim
        return self.num_layers * 2 * inner * self.dtype.itemsize

    def physical_blocks(self, logical: Sequence[int] | range) -> list[int]:
        """Maps logical block ids (token position // 16) to physical ones, in the same order."""
        for block in logical:
            if not 0 <= block < self.num_blocks:
                raise IndexError(f"logical block {block} is outside [0, {self.num_blocks})")
        return [int(self.block_table[block]) for block in logical]

    def write(self, layer: int, start: int, k: np.ndarray, v: np.ndarray) -> None:
        """Stores k and v [tokens, num_kv_heads, head_dim] at positions start, start + 1, ..."""
        expected = (len(k), self.num_kv_heads, self.head_dim)
        if k.shape != expected or v.shape != expected:
            raise ValueError(f"k is {k.shape} and v is {v.shape}, both must be {expected}")
        end = start + len(k)
        self._check_range(start, end)
        if start % BLOCK_TOKENS == 0 and end % BLOCK_TOKENS == 0:
            blocks = self.block_table[start // BLOCK_TOKENS : end // BLOCK_TOKENS]
            paged = (len(blocks), BLOCK_TOKENS, self.num_kv_heads, self.head_dim)
            self._k[layer][blocks] = k.reshape(paged)
            self._v[layer][blocks] = v.reshape(paged)
            return
        positions = np.arange(start, end)
        blocks = self.block_table[positions // BLOCK_TOKENS]
        self._k[layer][blocks, positions % BLOCK_TOKENS] = k
        self._v[layer][blocks, positions % BLOCK_TOKENS] = v

    def gather(
        self, layer: int, start: int, end: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns K and V [end - start, num_kv_heads, head_dim] of positions [start, end)."""
        self._check_range(start, end)
        first = start // BLOCK_TOKENS
        blocks = self.block_table[first : -(-end // BLOCK_TOKENS)]
        skip = start - first * BLOCK_TOKENS
        rows = (len(blocks) * BLOCK_TOKENS, self.num_kv_heads, self.head_dim)
        k = self._k[layer][blocks].reshape(rows)[skip : skip + end - start]
        v = self._v[layer][blocks].reshape(rows)[skip : skip + end - start]
        return k.astype(np.float32, copy=False), v.astype(np.float32, copy=False)

    def read_block(self, layer: int, logical: int) -> np.ndarray:
        """Returns a copy [2, 16, num_kv_heads, head_dim] of one block of one layer, K before V."""
        (block,) = self.physical_blocks([logical])
        return np.stack([self._k[layer][block], self._v[layer][block]])

    def wipe(self, logical: Sequence[int] | range | None = None) -> None:
        """Overwrites blocks (default: all) with NaN, so that any use of a lost block shows."""
        blocks = self.physical_blocks(range(self.num_blocks) if logical is None else logical)
        for k, v in zip(self._k, self._v, strict=True):
            k[blocks] = np.nan
            v[blocks] = np.nan

    def _check_range(self, start: int, end: int) -> None:
        if not 0 <= start < end <= self.capacity_tokens:
            raise IndexError(
                f"positions [{start}, {end}) are empty or outside [0, {self.capacity_tokens}); "
                "make num_blocks larger"
            )

    def _checked(self, tensor: np.ndarray, layer: int) -> np.ndarray:
        if tensor.shape != self.shape or tensor.dtype != self.dtype:
            raise ValueError(
                f"allocate gave {tensor.shape} {tensor.dtype} for layer {layer}, "
                f"asked for {self.shape} {self.dtype}"
            )
        if not (tensor.flags.c_contiguous and tensor.flags.writeable):
            raise ValueError(f"the tensor of layer {layer} is not writable and C-contiguous")
        return tensor
