# SPDX-License-Identifier: Apache-2.0
"""What torch itself reaches on the shapes of `kvbm bench gpu`, as JSON for its --torch option.

    python3 bench/transfer/torch_baseline.py --out torch.json
    kvbm bench gpu --torch torch.json

Every way moves random blocks of a layer-separate cache [2, blocks, tokens, heads, head_dim] between
the GPU and pinned memory; the bytes are compared once. About a minute.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

WORKLOADS = {  # layers, outer, tokens, heads, head_dim
    "llama3-8b": (32, 2, 16, 8, 128),
    "llama3-70b-tp8": (80, 2, 16, 1, 128),
    "qwen3-32b-tp4": (64, 2, 16, 2, 128),
    "smollm2-135m": (30, 2, 16, 3, 64),
}


def median_seconds(torch: Any, run: Callable[[], None], repeat: int) -> float:
    run()
    torch.cuda.synchronize()
    samples = []
    for _ in range(repeat):
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        samples.append(time.perf_counter() - begin)
    return sorted(samples)[len(samples) // 2]


def measure(torch: Any, name: str, mib: int, repeat: int) -> list[dict[str, Any]]:
    layers, outer, tokens, heads, head_dim = WORKLOADS[name]
    chunk = tokens * heads * head_dim * 2
    blocks = max(1, (mib << 20) // (chunk * layers * outer))
    pool = 2 * blocks
    shape = (outer, pool, tokens, heads, head_dim)
    options = {"dtype": torch.bfloat16, "device": "cuda"}
    cache = [torch.randn(shape, **options) for _ in range(layers)]
    ids = torch.randperm(pool, device="cuda")[:blocks]
    size = chunk * layers * outer * blocks
    pinned = {"dtype": torch.bfloat16, "pin_memory": True}
    scattered = torch.empty((layers, outer, blocks, tokens, heads, head_dim), **pinned)
    contiguous = torch.empty((blocks, layers, outer, tokens, heads, head_dim), **pinned)
    universal = torch.empty((blocks, heads, layers, outer, tokens, head_dim), **pinned)
    rows: list[dict[str, Any]] = []

    def add(
        direction: str, far_side: str, way: str, run: Callable[[], None], share: int = 1
    ) -> None:
        seconds = median_seconds(torch, run, repeat if share == 1 else 1)
        rows.append(
            {
                "workload": name,
                "direction": direction,
                "far_side": far_side,
                "blocks": blocks,
                "way": way,
                "bytes_per_second": size / share / seconds,
            }
        )
        print(f"{name} {direction} {far_side} {way}: {size / share / seconds / 1e9:.1f} GB/s")

    def gather() -> Any:
        return torch.stack([layer.index_select(1, ids) for layer in cache])

    def offload_layers() -> None:
        for i, layer in enumerate(cache):
            scattered[i].copy_(layer.index_select(1, ids), non_blocking=True)

    def offload_contiguous() -> None:
        moved = gather().permute(2, 0, 1, 3, 4, 5).contiguous()
        contiguous.copy_(moved, non_blocking=True)

    def offload_universal() -> None:
        moved = gather().permute(2, 4, 0, 1, 3, 5).contiguous()
        universal.copy_(moved, non_blocking=True)

    def onboard_layers() -> None:
        for i, layer in enumerate(cache):
            layer.index_copy_(1, ids, scattered[i].to("cuda", non_blocking=True))

    def onboard_universal() -> None:
        moved = universal.to("cuda", non_blocking=True).permute(2, 3, 0, 4, 1, 5)
        for i, layer in enumerate(cache):
            layer.index_copy_(1, ids, moved[i])

    part = 16  # of the blocks: a call each is too slow for all of them

    def offload_each() -> None:
        for position, block in enumerate(id_list[: max(1, blocks // part)]):
            for i, layer in enumerate(cache):
                scattered[i][:, position].copy_(layer[:, block], non_blocking=True)

    id_list = ids.tolist()
    add("d2h", "scattered", "index_select + copy_ a layer", offload_layers)
    add("d2h", "contiguous", "index_select, permute, copy_", offload_contiguous)
    add("d2h", "universal", "index_select, permute, copy_", offload_universal)
    add("h2d", "scattered", "to + index_copy_ a layer", onboard_layers)
    add("h2d", "universal", "to, permute, index_copy_", onboard_universal)
    add("d2h", "scattered", "copy_ a block and layer", offload_each,
        max(1, round(blocks / max(1, blocks // part))))  # fmt: skip
    torch.cuda.synchronize()
    offload_universal()
    torch.cuda.synchronize()
    expected = cache[0][:, ids[0]].cpu()  # [outer, tokens, heads, head_dim]
    if not torch.equal(universal[0][:, 0].permute(1, 2, 0, 3), expected):
        raise SystemExit(f"{name}: bytes differ")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="torch.json")
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError as error:
        print(f"skipped: no torch: {error}")
        return 0
    if not torch.cuda.is_available():
        print("skipped: torch finds no CUDA device")
        return 0
    rows = []
    for name in WORKLOADS:
        rows += measure(torch, name, arguments.mib, arguments.repeat)
        torch.cuda.empty_cache()
    with open(arguments.out, "w", encoding="utf-8") as file:
        json.dump({"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows},
                  file, indent=1)  # fmt: skip
    print(f"written: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
