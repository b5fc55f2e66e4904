# SPDX-License-Identifier: Apache-2.0
"""The demo with random weights: the same proof without the model's file, on the CPU and a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import kvbm_cpp as kvbm
import numpy as np
import pytest

import backend
from engine import Engine
from model import Model
from paged_cache import PagedCache
from prompt import random_prompt

DEMO = Path(backend.__file__).with_name("demo.py")
SHORT = ["--tiny", "--tokens", "150", "--generate", "12"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DEMO), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )


def require_device(name: str) -> None:
    if name == "cuda":
        if reason := kvbm.cuda_unavailable_reason():
            pytest.skip(f"no CUDA device: {reason}")
        require_torch()


def require_torch() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("damage", [[], ["--corrupt"]])
def test_random_weights_prove_the_same(device: str, damage: list[str]) -> None:
    require_device(device)
    result = run(*SHORT, "--device", device, "--json", *damage)
    assert result.returncode == 0, result.stdout + result.stderr
    told = json.loads(result.stdout)
    assert told["passed"]
    assert told["model"] == "random weights"
    assert told["text"] == ""
    assert (told["device"] == "device") == (device == "cpu")
    assert told["blocks"] == 150 // 16
    assert len(told["refused"]) == len(damage)
    assert told["prefilled_tokens"]["onboard"] == 150 - 9 * 16 + 16 * len(damage)
    assert [hop["name"] for hop in told["hops"]][::3] == ["G1 -> G2", "G2 -> G1"]


@pytest.mark.skipif(not kvbm.cuda_unavailable_reason(), reason="this machine has a CUDA device")
def test_without_a_gpu_the_demo_says_so(tmp_path: Path) -> None:
    for step in ([], ["prefill", "--workdir", str(tmp_path)]):
        result = run(*SHORT, "--device", "cuda", *step)
        assert result.returncode == 2
        assert "no CUDA device: " in result.stderr
        assert "Without --device the demo runs on the CPU" in result.stderr
    assert list(tmp_path.iterdir()) == []


def generate(model: Any, cache: PagedCache, prompt: list[int]) -> tuple[list[int], np.ndarray]:
    cache.wipe()
    generation = Engine(model, cache, chunk_tokens=64).generate(prompt, 16)
    return generation.tokens, generation.first_logits


def test_what_is_generated_depends_on_the_prompt() -> None:
    # Else equal tokens would prove nothing.
    model = Model.random(backend.TINY, backend.TINY_SEED)
    shape = backend.TINY
    cache = PagedCache(shape.num_layers, shape.num_kv_heads, shape.head_dim, 16)
    prompt = random_prompt(shape.vocab_size, 150)
    tokens, _ = generate(model, cache, prompt)
    assert len(set(tokens)) > 3
    changed = [prompt[0] ^ 1, *prompt[1:]]
    again, _ = generate(model, cache, changed)
    assert again != tokens
    same, _ = generate(Model.random(shape, backend.TINY_SEED), cache, prompt)
    assert same == tokens


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_torch_computes_what_numpy_does(device: str) -> None:
    require_device(device)
    torch = require_torch()
    from torch_model import TorchModel, TorchPagedCache

    model = Model.random(backend.TINY, backend.TINY_SEED)
    shape = backend.TINY
    sizes = (shape.num_layers, shape.num_kv_heads, shape.head_dim, 16)
    place = torch.device(device)
    prompt = random_prompt(shape.vocab_size, 150)
    ours, theirs = PagedCache(*sizes), TorchPagedCache(*sizes, device=place)
    tokens, logits = generate(model, ours, prompt)
    placed = TorchModel(model, place)
    placed.warm_up()
    torch_tokens, torch_logits = generate(placed, theirs, prompt)
    np.testing.assert_allclose(torch_logits, logits, atol=1e-3)
    assert torch_tokens == tokens
    for layer in range(shape.num_layers):
        for block in range(150 // 16):
            np.testing.assert_allclose(
                theirs.read_block(layer, block), ours.read_block(layer, block), atol=1e-3
            )
