# SPDX-License-Identifier: Apache-2.0
"""Writes the type stub of the installed extension module.

usage: gen_stub.py [OUTPUT]      default: python/kvbm_cpp/_kvbm_cpp.pyi
"""

from __future__ import annotations

import sys
from pathlib import Path

from nanobind.stubgen import StubGen

import kvbm_cpp._kvbm_cpp

HEADER = (
    "# SPDX-License-Identifier: Apache-2.0\n# Written by python/tests/gen_stub.py: do not edit.\n"
)


def stub() -> str:
    """Returns the stub's text, the same for the same module."""
    generator = StubGen(kvbm_cpp._kvbm_cpp)
    generator.put(kvbm_cpp._kvbm_cpp)
    return HEADER + generator.get()


if __name__ == "__main__":
    default = Path(__file__).parents[1] / "kvbm_cpp" / "_kvbm_cpp.pyi"
    (Path(sys.argv[1]) if len(sys.argv) > 1 else default).write_text(stub())
