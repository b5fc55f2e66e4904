# SPDX-License-Identifier: Apache-2.0
"""Types of arguments that may be given in several ways; for annotations only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from kvbm_cpp._kvbm_cpp import Event, Region, Stream

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


class TorchLike(Protocol):
    """A tensor of torch, of any dtype, on the CPU or a GPU; torch itself is not needed."""

    def data_ptr(self) -> int: ...
    def element_size(self) -> int: ...
    def stride(self) -> Any: ...
    @property
    def shape(self) -> Any: ...
    @property
    def device(self) -> Any: ...
    @property
    def dtype(self) -> Any: ...


class TorchStream(Protocol):
    """A stream as torch.cuda.Stream names it."""

    @property
    def cuda_stream(self) -> int: ...


class TorchEvent(Protocol):
    """An event as torch.cuda.Event names it; it must have been recorded."""

    @property
    def cuda_event(self) -> int: ...


class SupportsCudaStream(Protocol):
    """A stream of a library that speaks CUDA's stream protocol, e.g. cuda.core."""

    def __cuda_stream__(self) -> tuple[int, int]: ...


class SupportsPtr(Protocol):
    """A stream or event as cupy names it."""

    @property
    def ptr(self) -> int: ...


class SupportsHandle(Protocol):
    """An event as cuda.core names it."""

    @property
    def handle(self) -> Any: ...


#: A CUDA stream of another library; an int is a cudaStream_t of device 0.
CudaStreamLike: TypeAlias = TorchStream | SupportsCudaStream | SupportsPtr | int

#: A CUDA event of another library; an int is a cudaEvent_t of device 0.
CudaEventLike: TypeAlias = TorchEvent | SupportsPtr | SupportsHandle | int

StreamLike: TypeAlias = Stream | CudaStreamLike
EventLike: TypeAlias = Event | CudaEventLike

#: Memory of the caller: a tensor, or (address, bytes[, device_id[, owner]]).
TensorLike: TypeAlias = (
    NDArray[Any]
    | TorchLike
    | SupportsDlpack
    | SupportsCudaArrayInterface
    | bytearray
    | memoryview
    | Region
    | tuple[int, int]
    | tuple[int, int, int | None]
    | tuple[int, int, int | None, object]
)
