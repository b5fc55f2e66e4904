# SPDX-License-Identifier: Apache-2.0
"""Types of arguments that may be given in several ways; for annotations only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbm_cpp._kvbm_cpp import Region

#: Block ids: a one-dimensional integer array (uint32 is read without a copy), or any integers.
BlockIds: TypeAlias = NDArray[np.integer[Any]] | Iterable[int]

#: A range of step 1, or a pair (begin, end).
Range: TypeAlias = range | tuple[int, int]


class SupportsDlpack(Protocol):
    """A tensor of any library that speaks DLPack."""

    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...


class SupportsCudaArrayInterface(Protocol):
    """A CUDA tensor of a library that does not speak DLPack."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...


#: Memory of the caller: a tensor, or (address, bytes[, device_id[, owner]]).
TensorLike: TypeAlias = (
    NDArray[Any]
    | SupportsDlpack
    | SupportsCudaArrayInterface
    | bytearray
    | memoryview
    | Region
    | tuple[int, int]
    | tuple[int, int, int | None]
    | tuple[int, int, int | None, object]
)
