# SPDX-License-Identifier: Apache-2.0
"""The kernels from torch, without kvbm's Python package.

Blocks of a paged cache, a tensor [2, num_blocks, nt, nh, hd] per layer, are brought into the
universal order [nh, nl, no, nt, hd] by one launch on torch's stream, straight into pinned host
memory, and compared with what torch makes of them.

    cmake -S . -B build/shared -DBUILD_SHARED_LIBS=ON && cmake --build build/shared
    python examples/kernels_from_torch.py build/shared/src/kernels/libkvbm_kernels.so
"""

from __future__ import annotations

import ctypes
import sys

import torch

MAX_COPY_DIMS = 6


class CopyDim(ctypes.Structure):
    _fields_ = [
        ("extent", ctypes.c_uint64),
        ("src_stride", ctypes.c_int64),
        ("dst_stride", ctypes.c_int64),
    ]


class CopyTemplate(ctypes.Structure):
    _fields_ = [
        ("num_dims", ctypes.c_uint32),
        ("dims", CopyDim * MAX_COPY_DIMS),
        ("run_bytes", ctypes.c_uint64),
    ]


class CopyBoxes(ctypes.Structure):
    _fields_ = [
        ("num_segments", ctypes.c_size_t),
        ("src_segments", ctypes.POINTER(ctypes.c_size_t)),
        ("dst_segments", ctypes.POINTER(ctypes.c_size_t)),
        ("src_block_stride", ctypes.c_uint64),
        ("dst_block_stride", ctypes.c_uint64),
        ("num_blocks", ctypes.c_size_t),
        ("src_blocks", ctypes.POINTER(ctypes.c_uint32)),
        ("dst_blocks", ctypes.POINTER(ctypes.c_uint32)),
    ]


class Launch(ctypes.Structure):
    _fields_ = [
        ("stream", ctypes.c_void_p),
        ("max_ctas", ctypes.c_uint32),
        ("way", ctypes.c_int),
    ]


def to_universal(
    kernels: ctypes.CDLL,
    layers: list[torch.Tensor],
    blocks: list[int],
    out: torch.Tensor,
    max_ctas: int = 0,
) -> None:
    """Enqueue the copy of `blocks` of every layer into out [blocks, nh, nl, no, nt, hd]."""
    no, _, nt, nh, hd = layers[0].shape
    item = layers[0].element_size()
    row, slice_bytes = hd * item, nt * hd * item
    outer_stride, block_stride = (stride * item for stride in layers[0].stride()[:2])

    shape = CopyTemplate(num_dims=3, run_bytes=row)
    shape.dims[0] = CopyDim(nh, row, len(layers) * no * slice_bytes)
    shape.dims[1] = CopyDim(no, outer_stride, slice_bytes)
    shape.dims[2] = CopyDim(nt, nh * row, row)
    segments = ctypes.c_size_t * len(layers)
    ids = ctypes.c_uint32 * len(blocks)
    boxes = CopyBoxes(
        len(layers),
        segments(*(layer.data_ptr() for layer in layers)),
        segments(*(out.data_ptr() + i * no * slice_bytes for i in range(len(layers)))),
        block_stride,
        out[0].numel() * item,
        len(blocks),
        ids(*blocks),
        ids(*range(len(blocks))),
    )
    launch = Launch(torch.cuda.current_stream().cuda_stream, max_ctas, 0)
    status = kernels.kvbm_cuda_strided_copy(
        ctypes.byref(shape), ctypes.byref(boxes), ctypes.byref(launch)
    )
    if status != 0:
        error = kernels.kvbm_cuda_error_string(kernels.kvbm_cuda_last_error()).decode()
        raise RuntimeError(f"kvbm_cuda_strided_copy: status {status}, {error}")


def main() -> None:
    """Gather and permute four blocks, and compare with torch."""
    kernels = ctypes.CDLL(sys.argv[1])
    kernels.kvbm_cuda_error_string.restype = ctypes.c_char_p
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: torch finds none")
    layers = [torch.randn(2, 64, 16, 8, 128, dtype=torch.bfloat16, device="cuda") for _ in range(4)]
    blocks = [17, 3, 60, 4]
    out = torch.zeros(len(blocks), 8, 4, 2, 16, 128, dtype=torch.bfloat16).pin_memory()
    to_universal(kernels, layers, blocks, out, max_ctas=4)
    torch.cuda.synchronize()
    stacked = torch.stack([layer[:, blocks] for layer in layers])  # nl, no, block, nt, nh, hd
    expected = stacked.permute(2, 4, 0, 1, 3, 5).cpu()
    if not torch.equal(out, expected):
        sys.exit("failed: the blocks differ from torch's")
    print(f"{len(blocks)} blocks in universal order, equal to torch's, bit for bit")


if __name__ == "__main__":
    main()
