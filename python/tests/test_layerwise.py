# SPDX-License-Identifier: Apache-2.0
"""The layer-wise example, and that its events are what makes it right."""

from __future__ import annotations

import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import require_cuda_module

import kvbm_cpp as kvbm

pytestmark = pytest.mark.filterwarnings("default")

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "layerwise.py"


@pytest.fixture(scope="module")
def layerwise() -> ModuleType:
    if not EXAMPLE.is_file():
        pytest.skip("examples/layerwise.py is not in this folder")
    spec = importlib.util.spec_from_file_location("layerwise", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["layerwise"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["host", "cuda"])
def engine(request: pytest.FixtureRequest, layerwise: ModuleType) -> Any:
    if request.param == "host":
        return layerwise.HostEngine()
    require_cuda_module("torch")
    return layerwise.TorchEngine()


def test_layers_move_beside_the_model(layerwise: ModuleType, engine: Any) -> None:
    claims = layerwise.run(engine)
    assert claims == dict.fromkeys(claims, True)
    assert len(claims) == 5


@pytest.mark.parametrize("with_events", [True, False])
def test_without_events_what_leaves_is_not_there_yet(
    layerwise: ModuleType, engine: Any, with_events: bool
) -> None:
    pipeline = layerwise.Pipeline(engine)
    pipeline.offload()
    pipeline.onboard()
    engine.wipe_cache()
    stale = engine.recorded_event()
    engine.synchronize()
    gate = threading.Event()
    if not with_events:
        engine.recorded_event = lambda: stale
        # The model has not begun when the last block has left.
        engine.enqueue(lambda: gate.wait(layerwise.PATIENCE))
    pipeline.offload()
    gate.set()
    engine.synchronize()
    assert engine.cache_is_right()
    engine.wipe_cache()
    pipeline.onboard()
    assert engine.cache_is_right() == with_events


def test_the_example_says_what_is_missing(
    layerwise: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    if not kvbm.cuda_unavailable_reason():
        pytest.skip("this machine has a CUDA device")
    assert layerwise.main(["--device", "cuda"]) == 2
    assert "no CUDA device: " in capsys.readouterr().err
