# SPDX-License-Identifier: Apache-2.0
"""The same model in torch, with its paged KV cache in the memory of a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from model import Floats, Ids, Model
from paged_cache import BLOCK_TOKENS, PagedCache


class TorchPagedCache(PagedCache):
    """A PagedCache whose tensors are torch's, on a GPU or, for comparison, the CPU."""

    def __init__(
        self,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        num_blocks: int,
        *,
        device: torch.device,
        shuffle_seed: int = 0,
    ):
        self._device = device
        super().__init__(
            num_layers,
            num_kv_heads,
            head_dim,
            num_blocks,
            allocate=lambda shape, _: torch.empty(shape, dtype=torch.float32, device=device),
            shuffle_seed=shuffle_seed,
        )
        self._table = torch.from_numpy(self.block_table).to(device)

    def write(self, layer: int, start: int, k: Any, v: Any) -> None:
        """As PagedCache.write; k and v are tensors of the device."""
        expected = (len(k), self.num_kv_heads, self.head_dim)
        if tuple(k.shape) != expected or tuple(v.shape) != expected:
            raise ValueError(f"k is {k.shape} and v is {v.shape}, both must be {expected}")
        self._check_range(start, start + len(k))
        positions = torch.arange(start, start + len(k), device=self._device)
        blocks, rows = self._table[positions // BLOCK_TOKENS], positions % BLOCK_TOKENS
        self._k[layer][blocks, rows] = k
        self._v[layer][blocks, rows] = v

    def gather(self, layer: int, start: int, end: int) -> tuple[Any, Any]:
        """As PagedCache.gather; returns tensors of the device."""
        self._check_range(start, end)
        first = start // BLOCK_TOKENS
        blocks = self._table[first : -(-end // BLOCK_TOKENS)]
        skip = start - first * BLOCK_TOKENS
        rows = (len(blocks) * BLOCK_TOKENS, self.num_kv_heads, self.head_dim)
        k = self._k[layer][blocks].reshape(rows)[skip : skip + end - start]
        v = self._v[layer][blocks].reshape(rows)[skip : skip + end - start]
        return k, v

    def read_block(self, layer: int, logical: int) -> np.ndarray:
        """As PagedCache.read_block; the copy is numpy's."""
        (block,) = self.physical_blocks([logical])
        block_of_both: Any = torch.stack([self._k[layer][block], self._v[layer][block]])
        return np.asarray(block_of_both.cpu().numpy())

    def wipe(self, logical: Sequence[int] | range | None = None) -> None:
        """As PagedCache.wipe; done when it returns, because kvbm's streams do not wait for it."""
        blocks = self.physical_blocks(range(self.num_blocks) if logical is None else logical)
        index = torch.tensor(blocks, device=self._device)
        for k, v in zip(self._k, self._v, strict=True):
            k[index] = float("nan")
            v[index] = float("nan")
        self.synchronize()

    def synchronize(self) -> None:
        """Waits for what torch has enqueued."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _checked(self, tensor: Any, layer: int) -> Any:
        if tuple(tensor.shape) != self.shape or not tensor.is_contiguous():
            raise ValueError(f"the tensor of layer {layer} is no contiguous one of {self.shape}")
        return tensor


class TorchModel:
    """The weights and the forward pass of a Model, on a device of torch, in float32.

    The sums come in another order than numpy's, so K and V are nearly the same but for their last
    bits. On one GPU equal calls give equal bits.
    """

    def __init__(self, model: Model, device: torch.device):
        self.shape = model.shape
        self.device = device

        def place(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        self._embedding = place(model.embedding)
        self._norm = place(model.norm)
        self._layers = [
            {name: place(array) for name, array in vars(layer).items()} for layer in model.layers
        ]
        half = self.shape.head_dim // 2
        exponents = np.arange(half, dtype=np.float64) / half
        angles = np.outer(np.arange(self.shape.context_length), self.shape.rope_base**-exponents)[
            :, None, :
        ]
        self._cos = place(np.cos(angles).astype(np.float32))
        self._sin = place(np.sin(angles).astype(np.float32))

    def warm_up(self) -> None:
        """Loads the kernels, so that no later time has that in it."""
        shape = self.shape
        cache = TorchPagedCache(
            shape.num_layers, shape.num_kv_heads, shape.head_dim, 33, device=self.device
        )
        first = np.zeros(512, np.int64)
        self.forward(first, 0, cache)
        for tokens in (8, 1):
            hidden = self.forward(first[:tokens], 512, cache)
            self.logits(hidden[-1])

    def forward(self, tokens: Ids, start: int, cache: TorchPagedCache) -> Any:
        """As Model.forward; the hidden states stay on the device."""
        self.shape.check(tokens, start)
        x = self._embedding[torch.as_tensor(tokens, device=self.device)]
        for index, weights in enumerate(self._layers):
            x = x + self._attention(index, self._rms_norm(x, weights["attn_norm"]), start, cache)
            gate_up = self._rms_norm(x, weights["ffn_norm"]) @ weights["gate_up"]
            gate, up = gate_up.chunk(2, dim=-1)
            x = x + (torch.nn.functional.silu(gate) * up) @ weights["down"]
        return self._rms_norm(x, self._norm)

    def logits(self, hidden: Any) -> Floats:
        """As Model.logits; on the CPU, so what was enqueued before is done as well."""
        return np.asarray((hidden @ self._embedding.T).cpu().numpy())

    def _rms_norm(self, x: Any, weight: Any) -> Any:
        mean_square = (x * x).mean(dim=-1, keepdim=True)
        return x * torch.rsqrt(mean_square + self.shape.norm_eps) * weight

    def _rotate(self, x: Any, start: int) -> Any:
        cos, sin = self._cos[start : start + len(x)], self._sin[start : start + len(x)]
        low, high = x.chunk(2, dim=-1)
        return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)

    def _attention(self, layer: int, x: Any, start: int, cache: TorchPagedCache) -> Any:
        shape = self.shape
        n, end = len(x), start + len(x)
        heads, kv_heads, dim = shape.num_heads, shape.num_kv_heads, shape.head_dim
        qkv = (x @ self._layers[layer]["qkv"]).reshape(n, heads + 2 * kv_heads, dim)
        q = self._rotate(qkv[:, :heads], start) * dim**-0.5
        k = self._rotate(qkv[:, heads : heads + kv_heads], start)
        cache.write(layer, start, k, qkv[:, heads + kv_heads :])
        keys, values = cache.gather(layer, 0, end)
        group = heads // kv_heads
        keys = keys.permute(1, 2, 0).repeat_interleave(group, dim=0)  # [heads, dim, end]
        values = values.permute(1, 0, 2).repeat_interleave(group, dim=0)  # [heads, end, dim]
        scores = q.permute(1, 0, 2) @ keys  # [heads, n, end]
        positions = torch.arange(end, device=self.device)
        scores = scores.masked_fill(positions[None, :] > positions[start:, None], float("-inf"))
        mixed = torch.softmax(scores, dim=-1) @ values  # [heads, n, dim]
        return mixed.permute(1, 0, 2).reshape(n, heads * dim) @ self._layers[layer]["attn_out"]
