# SPDX-License-Identifier: Apache-2.0
# Written by python/tests/gen_stub.py: do not edit.
"""The native part of kvbm_cpp: import kvbm_cpp instead."""

from collections.abc import (
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence
)
import enum
import os
import pathlib
from typing import Any, Final, overload

import numpy.typing
from typing_extensions import Buffer

import kvbm_cpp._errors
import kvbm_cpp._types


class ErrorCode(enum.Enum):
    """What kind of failure happened."""

    InvalidArgument = 0
    """a value that can never be right"""

    OutOfRange = 1
    """an index or range beyond what the object has"""

    Overflow = 2
    """a size or address left the 64-bit range"""

    Unsupported = 3
    """a correct request that this build or machine cannot serve"""

    NotFound = 4
    """a handle, file or device that does not exist"""

    AlreadyExists = 5
    """a name or file that is taken"""

    Busy = 6
    """the object is in use"""

    Corrupt = 7
    """stored bytes fail their checksum or structure"""

    VersionMismatch = 8
    """written by a version that this one does not read"""

    OutOfMemory = 9
    """an allocation or a pool limit was exceeded"""

    Io = 10
    """the operating system refused; native_code is its errno"""

    Device = 11
    """a device runtime reported an error"""

    Timeout = 12
    """the deadline passed before the work ended"""

    Cancelled = 13
    """the caller asked to stop"""

    ShuttingDown = 14
    """the owner is being destroyed"""

    PeerLost = 15
    """a remote worker died, was stopped, or disconnected"""

    Internal = 16
    """a broken invariant of kvbm itself"""

class StorageKind(enum.Enum):
    """Where bytes live."""

    System = 0
    """ordinary host memory"""

    Pinned = 1
    """page-locked host memory"""

    Device = 2
    """memory of a device"""

    Disk = 3
    """a file on local storage"""

    Object = 4
    """an object store"""

class LayoutHandle:
    """Names a registered layout of a worker in 128 bits. Hashable, ordered."""

    def __init__(self, worker_id: int, layout_id: int) -> None: ...

    @property
    def worker_id(self) -> int:
        """Bits 0-63."""

    @property
    def layout_id(self) -> int:
        """Bits 64-79."""

    @property
    def reserved_bits(self) -> int:
        """The other 48; a handle with any of them set is refused everywhere."""

    def to_u128(self) -> int:
        """All 128 bits as an integer."""

    @staticmethod
    def from_u128(value: int) -> LayoutHandle:
        """The handle with these 128 bits."""

    def __eq__(self, other: object, /) -> bool: ...

    def __lt__(self, arg: LayoutHandle, /) -> bool: ...

    def __le__(self, arg: LayoutHandle, /) -> bool: ...

    def __gt__(self, arg: LayoutHandle, /) -> bool: ...

    def __ge__(self, arg: LayoutHandle, /) -> bool: ...

    def __hash__(self) -> int: ...

    def __repr__(self) -> str: ...

class Checksum:
    """
    An XXH3-128 checksum. str() gives 32 hexadecimal digits, bytes() 16 bytes, most significant first. Hashable, ordered.
    """

    def __init__(self, value: int | str) -> None: ...

    def hex(self) -> str:
        """32 hexadecimal digits."""

    def __str__(self) -> str: ...

    def __repr__(self) -> str: ...

    def __int__(self) -> int: ...

    def __bytes__(self) -> bytes: ...

    def __eq__(self, other: object, /) -> bool: ...

    def __lt__(self, arg: Checksum, /) -> bool: ...

    def __le__(self, arg: Checksum, /) -> bool: ...

    def __gt__(self, arg: Checksum, /) -> bool: ...

    def __ge__(self, arg: Checksum, /) -> bool: ...

    def __hash__(self) -> int: ...

def checksum_bytes(data: Buffer) -> Checksum:
    """XXH3-128 of any contiguous buffer."""

class FillPattern:
    """
    What fill_blocks writes, as a function of the logical element, so that two layouts filled alike hold the same tensor in any format.
    """

    def __init__(self, kind: FillPattern.Kind = ..., value: int = 0) -> None: ...

    class Kind(enum.Enum):
        """Which function it is."""

        Constant = 0
        """every byte is `value`"""

        Sequential = 1
        """byte i of a block's logical tensor is (value + block + i) mod 256"""

        BlockLayer = 2
        """every byte is a hash of (value, block, layer)"""

        Hashed = 3
        """bytes of a hash of (value, block, layer, outer, offset)"""

    @property
    def kind(self) -> FillPattern.Kind: ...

    @property
    def value(self) -> int:
        """The constant, the start, or the seed."""

    def __repr__(self) -> str: ...

class LogLevel(enum.Enum):
    """How much is logged."""

    Trace = 0

    Debug = 1

    Info = 2

    Warning = 3

    Error = 4

    Off = 5

def set_log_level(level: LogLevel) -> None:
    """
    Sets the lowest level that is logged, overriding the environment's KVBM_LOG.
    """

def version() -> str:
    """"major.minor.patch" of the library."""

class LayoutConfig:
    """
    The logical shape of a layout: num_blocks KV blocks, each the tensor [num_layers, outer_dim, page_size, num_heads, head_dim]. Immutable; only a valid one exists.
    """

    def __init__(self, *, num_blocks: int, num_layers: int, page_size: int, inner_dim: int, outer_dim: int = 2, alignment: int = 1, dtype_width_bytes: int = 2, num_heads: int | None = None) -> None: ...

    @property
    def num_blocks(self) -> int: ...

    @property
    def num_layers(self) -> int: ...

    @property
    def outer_dim(self) -> int:
        """2 = K and V apart, 1 = fused or MLA."""

    @property
    def page_size(self) -> int:
        """Tokens in a block."""

    @property
    def inner_dim(self) -> int:
        """num_heads * head_dim."""

    @property
    def alignment(self) -> int:
        """Bytes that block starts are aligned to."""

    @property
    def dtype_width_bytes(self) -> int: ...

    @property
    def num_heads(self) -> int | None:
        """KV heads where known."""

    @property
    def head_dim(self) -> int:
        """inner_dim / num_heads."""

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one (layer, outer) chunk."""

    @property
    def block_bytes(self) -> int:
        """Bytes of one block's elements, without padding."""

    def with_num_blocks(self, num_blocks: int) -> LayoutConfig:
        """The same shape with another number of blocks."""

    def with_alignment(self, alignment: int) -> LayoutConfig:
        """The same shape with another alignment."""

    def __eq__(self, other: object, /) -> bool: ...

    def __hash__(self) -> int: ...

    def __repr__(self) -> str: ...

class BlockDim(enum.Enum):
    """The five dimensions of one KV block."""

    Layer = 0

    Outer = 1

    Token = 2

    Head = 3

    HeadDim = 4

class KvBlockLayout:
    """The order of a block's five dimensions in memory. Immutable, hashable."""

    class Kind(enum.Enum):
        """Which format it is."""

        UniversalTP = 0

        UniversalPP = 1

        OperationalHND = 2

        OperationalNHD = 3

        Custom = 4

        Strided = 5

        Unknown = 6

    UniversalTP: Final[KvBlockLayout] = ...
    """[nh, nl, no, nt, hd]"""

    UniversalPP: Final[KvBlockLayout] = ...
    """[nl, nh, no, nt, hd]"""

    OperationalHND: Final[KvBlockLayout] = ...
    """[nl, no, nh, nt, hd]"""

    OperationalNHD: Final[KvBlockLayout] = ...
    """[nl, no, nt, nh, hd]"""

    Unknown: Final[KvBlockLayout] = ...
    """
    Whole (layer, outer) chunks can be moved; what is inside them is not known.
    """

    @staticmethod
    def Custom(order: Sequence[BlockDim]) -> KvBlockLayout:
        """Any permutation of the five dimensions, outermost first."""

    @staticmethod
    def Strided(strides: Sequence[int], footprint: int) -> KvBlockLayout:
        """
        Explicit byte strides in the order layer, outer, token, head, head_dim, and the bytes from a block's first byte to behind its last.
        """

    @staticmethod
    def parse(text: str) -> KvBlockLayout:
        """Reads back what str() wrote."""

    @property
    def kind(self) -> KvBlockLayout.Kind: ...

    @property
    def order(self) -> tuple[BlockDim, ...] | None:
        """Outermost first; None for Unknown and Strided."""

    @property
    def is_operational(self) -> bool:
        """NHD or HND."""

    @property
    def is_universal(self) -> bool:
        """TP or PP."""

    @property
    def is_unknown(self) -> bool: ...

    @property
    def needs_num_heads(self) -> bool: ...

    def requires_transform(self, other: KvBlockLayout, config: LayoutConfig | None = None) -> bool:
        """
        Whether bytes have to be rearranged to go from this format to `other`; with a config, dimensions of extent 1 do not count.
        """

    def strides(self, config: LayoutConfig) -> tuple[tuple[int, ...], int]:
        """
        Byte strides in the order layer, outer, token, head, head_dim, and the footprint.
        """

    def __eq__(self, other: object, /) -> bool: ...

    def __hash__(self) -> int: ...

    def __str__(self) -> str: ...

    def __repr__(self) -> str: ...

class Dim(enum.Enum):
    """Names of the dimensions of engine tensors."""

    Block = 0

    Layer = 1

    Outer = 2

    Token = 3

    Head = 4

    HeadDim = 5

    Payload = 5
    """HeadDim, or the whole row where there is no Head"""

class KvDimLayout:
    """
    How ONE engine tensor (the KV cache of one layer) orders the dimensions Block, Outer, Token, Head and Payload, outermost first.
    """

    def __init__(self, dims: Iterable[tuple[Dim, int] | tuple[Dim, int, int]], element_bytes: int) -> None:
        """dims: (dim, extent[, stride_bytes]), outermost first, Payload last."""

    @property
    def element_bytes(self) -> int: ...

    @property
    def bytes(self) -> int:
        """From the first element to behind the last."""

    def extent(self, dim: Dim) -> int: ...

    def stride(self, dim: Dim) -> int:
        """Bytes a step along `dim` moves."""

    def config(self, num_layers: int) -> LayoutConfig:
        """The config of `num_layers` such tensors."""

    def __eq__(self, other: object, /) -> bool: ...

    def __str__(self) -> str: ...

class Backend(enum.Enum):
    """Which implementation is behind a Device."""

    Host = 0
    """emulated: ordinary memory and threads"""

    Cuda = 1
    """an NVIDIA GPU"""

class Event:
    """A point in a stream's work. Never recorded: complete."""

    def is_complete(self) -> bool: ...

    def wait(self) -> None:
        """Blocks until the work recorded last has ended."""

    @property
    def backend(self) -> Backend: ...

    @property
    def cuda_event(self) -> int:
        """
        The cudaEvent_t as an int; it lives until this object is recorded again or dropped. AttributeError for events of emulated devices.
        """

class Stream:
    """
    A FIFO queue of work on one device; streams run side by side. Those of a manager's pools live as long as the manager, all others as long as any reference.
    """

    @property
    def device_id(self) -> int: ...

    @property
    def backend(self) -> Backend: ...

    @property
    def name(self) -> str: ...

    @property
    def cuda_stream(self) -> int:
        """
        The cudaStream_t as an int, e.g. for torch.cuda.ExternalStream; keep this object or its manager as long as that is used. AttributeError for streams of emulated devices.
        """

    def __cuda_stream__(self) -> tuple[int, int]:
        """CUDA's stream protocol: (version, cudaStream_t)."""

    @property
    def is_capturing(self) -> bool:
        """Whether what is enqueued goes into a CUDA graph instead of running."""

    def enqueue(self, work: Callable[[], object]) -> None:
        """
        Runs `work` on a host thread when everything before it ended. It must not wait for this stream; an exception goes to sys.unraisablehook. Dropping the last reference to the stream waits for it.
        """

    def record(self, event: kvbm_cpp._types.EventLike) -> None:
        """Marks the present end of the stream in `event`."""

    def wait(self, event: kvbm_cpp._types.EventLike) -> None:
        """
        What is enqueued after this call waits for the point that `event` marks now.
        """

    def synchronize(self) -> None:
        """Blocks until everything enqueued so far has ended."""

    def is_idle(self) -> bool: ...

    def __repr__(self) -> str: ...

def wrap_cuda_stream(stream: kvbm_cpp._types.CudaStreamLike, device_id: int | None = None) -> Stream:
    """
    A Stream over a CUDA stream of another library, which it keeps alive; the owner of a cudaStream_t given as an int keeps that alive. Without device_id the stream's own says which device, an int means device 0.
    """

def wrap_cuda_event(event: kvbm_cpp._types.CudaEventLike, device_id: int | None = None) -> Event:
    """An Event over a recorded CUDA event of another library, likewise."""

class Region:
    """
    A range of bytes in one kind of storage. Shares ownership of what backs it.
    """

    @property
    def kind(self) -> StorageKind: ...

    @property
    def address(self) -> int:
        """Address of the first byte; 0 for Disk."""

    @property
    def bytes(self) -> int: ...

    @property
    def device_id(self) -> int:
        """Owning device, or the near one of Pinned memory where known, else -1."""

    @property
    def file_path(self) -> str | None:
        """The data file of a Disk region."""

    @property
    def file_offset(self) -> int:
        """Offset of the first byte in that file or store."""

    @property
    def is_direct(self) -> bool:
        """Whether the file is read and written past the page cache (O_DIRECT)."""

    @property
    def io_engine(self) -> str | None:
        """"IoUring" or "Threads"."""

    def numpy(self, shape: int | Sequence[int] | None = None, dtype: numpy.typing.DTypeLike = 'uint8') -> numpy.typing.NDArray[Any]:
        """The memory as a numpy array, without a copy; the array keeps it alive."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """
        The bytes for torch.as_tensor(region, device="cuda") and cupy.asarray(region), which keep the Region alive. AttributeError where it is no memory of a GPU.
        """

    def __repr__(self) -> str: ...

class DeviceProperties:
    """What a device is; empty and 0 for emulated ones."""

    @property
    def uuid(self) -> str:
        """"GPU-8c1a...\""""

    @property
    def pci_address(self) -> str:
        """"0000:1b:00.0\""""

    @property
    def num_multiprocessors(self) -> int: ...

    @property
    def compute_capability(self) -> int:
        """90 is 9.0."""

    @property
    def driver_version(self) -> int:
        """The newest CUDA that the driver knows, 13000 is 13.0."""

    @property
    def runtime_version(self) -> int:
        """Of the runtime in use."""

class Device:
    """One device: memory, streams, events."""

    @property
    def backend(self) -> Backend: ...

    @property
    def id(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def total_bytes(self) -> int: ...

    @property
    def used_bytes(self) -> int: ...

    @property
    def is_host_accessible(self) -> bool:
        """Whether the CPU may touch this device's memory."""

    @property
    def properties(self) -> DeviceProperties: ...

    @property
    def numa_node(self) -> int:
        """Where its pinned memory should be; -1 where unknown."""

    def can_address(self, other: int) -> bool:
        """
        Whether kernels of this device can address memory of device `other`; asking makes it so.
        """

    def allocate(self, bytes: int, alignment: int = 512) -> Region:
        """Memory of this device, zeroed, alive as long as the Region."""

    def empty(self, shape: int | Sequence[int], dtype: numpy.typing.DTypeLike = 'float32') -> numpy.typing.NDArray[Any]:
        """
        A numpy array in this device's memory, without a copy; zeroed. The memory lives as long as the array or anything made from it.
        """

    def create_stream(self, name: str = 'python') -> Stream:
        """A new stream of its own."""

    def create_event(self) -> Event: ...

    def synchronize(self) -> None:
        """Blocks until all streams of this device are idle."""

    def __repr__(self) -> str: ...

def make_host_device(id: int = 0, memory_bytes: int = 4294967296) -> Device:
    """An emulated device, e.g. one shared by an engine and several managers."""

def cuda_device(id: int = 0) -> Device:
    """
    CUDA device `id`, in the context that torch and others use too; UnsupportedError "no CUDA device: ..." where there is none.
    """

def cuda_unavailable_reason() -> str:
    """Why there is no CUDA device; empty where there is one."""

class MemoryPoolStats:
    """What a pool of device memory holds right now."""

    @property
    def reserved_bytes(self) -> int: ...

    @property
    def used_bytes(self) -> int: ...

    @property
    def peak_used_bytes(self) -> int: ...

    @property
    def num_allocations(self) -> int: ...

    @property
    def num_device_allocations(self) -> int: ...

class TensorInfo:
    """
    What kvbm sees of a tensor: where it is and how it is laid out. Keeps the tensor alive.
    """

    @staticmethod
    def of(tensor: kvbm_cpp._types.TensorLike, name: str = 'tensor') -> TensorInfo:
        """
        Reads it without a copy: numpy and cupy arrays, torch tensors of any dtype, objects with DLPack, a buffer or __cuda_array_interface__, a Region, or (address, bytes[, device_id[, owner]]). Errors call it `name`.
        """

    @property
    def address(self) -> int:
        """Of the first element."""

    @property
    def bytes(self) -> int:
        """From the first element to behind the last."""

    @property
    def item_bytes(self) -> int:
        """Of one element; 1 for raw memory."""

    @property
    def dtype(self) -> str:
        """"bfloat16"; empty for raw memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes, one an axis."""

    @property
    def is_contiguous(self) -> bool:
        """In C's order, without gaps."""

    @property
    def is_writable(self) -> bool: ...

    @property
    def on_device(self) -> bool:
        """Whether it is in memory of a GPU."""

    @property
    def device_id(self) -> int | None:
        """Which GPU, where the library says so."""

    def __repr__(self) -> str: ...

class Credentials:
    """
    Who signs requests to an object store. Neither repr() nor any message shows the secret or the token.
    """

    def __init__(self, access_key_id: str, secret_access_key: str, session_token: str = '') -> None: ...

    @staticmethod
    def from_chain() -> Credentials:
        """
        What AWS's own tools look at: the environment, the profiles of ~/.aws, the endpoint of a container, the instance's metadata service. NotFoundError names everything that was looked at.
        """

    @property
    def access_key_id(self) -> str: ...

    @property
    def source(self) -> str:
        """Where they came from."""

    def __repr__(self) -> str: ...

class S3Stats:
    """What an S3 client counts since it was made."""

    @property
    def requests(self) -> int:
        """Attempts sent."""

    @property
    def retries(self) -> int:
        """Of these, all but the first of each request."""

    @property
    def succeeded(self) -> int:
        """Requests that ended well."""

    @property
    def failed(self) -> int:
        """Requests that ended with an error."""

    @property
    def bytes_sent(self) -> int:
        """Bodies of successful requests."""

    @property
    def bytes_received(self) -> int: ...

    @property
    def connections(self) -> int:
        """Opened."""

    @property
    def attempt_errors(self) -> dict[str, int]:
        """Attempts that failed, by kind, also those that a retry made good."""

class ObjectTransport(enum.Enum):
    """Who moves the bodies of objects."""

    Curl = 0
    """libcurl."""

    Nixl = 1
    """
    NIXL's OBJ plugin, with libcurl for metadata and for what it cannot do.
    """

    Auto = 2
    """
    Curl where that plugin does not load, else whichever is measured to be faster when the store is opened; ObjectStore.backend_reason says why.
    """

class ObjectStore:
    """
    The objects behind a layout that allocate_object() made: blocks by content key, beside and instead of those by index. Bytes are those of exactly one block, in the layout's format. Methods may be called from any thread and release the interpreter lock.
    """

    def put(self, content_key: str, data: Buffer) -> None:
        """Stores the bytes of one block."""

    def get(self, content_key: str) -> bytes:
        """Reads one block and verifies it. NotFoundError, CorruptError."""

    def get_into(self, content_key: str, buffer: Buffer) -> None:
        """The same into memory of the caller, which is zeroed where it fails."""

    def exists(self, content_key: str) -> bool: ...

    def exist(self, content_keys: Iterable[str]) -> list[bool]:
        """For many keys at once, in their order."""

    def remove(self, content_key: str) -> None:
        """A key that is not there is no error."""

    def list(self, *, limit: int | None = None) -> list[tuple[str, int]]:
        """Content keys in ascending order of their objects, each with its bytes."""

    def bind(self, block: int, content_key: str) -> None:
        """
        From now on this block of the layout is the object of that key. Transfers that were started keep the former one.
        """

    def unbind(self, block: int) -> None:
        """Back to the block's index."""

    def key_of(self, block: int) -> str | None:
        """Its content key; None: it goes by its index."""

    def object_key_of(self, block: int) -> str:
        """The key of the object in which the block lies."""

    def stats(self) -> S3Stats:
        """What its S3 client has counted."""

    @property
    def url(self) -> str:
        """Of all its objects. Never holds credentials."""

    @property
    def block_bytes(self) -> int:
        """What put() takes and get() gives."""

    @property
    def blocks_per_object(self) -> int: ...

    @property
    def read_only(self) -> bool: ...

    @property
    def backend_reason(self) -> str:
        """Which way objects are moved, and why it was taken."""

    def __repr__(self) -> str: ...

class LayoutKind(enum.Enum):
    """How blocks are spread over regions."""

    FullyContiguous = 0
    """one region"""

    LayerSeparate = 1
    """one region a layer"""

class BlockDimension(enum.Enum):
    """Where the block index stands in a layer's region."""

    First = 0
    """[nb, no, chunk]"""

    Second = 1
    """[no, nb, chunk]"""

class BlockView:
    """Where a block or chunk of a layout is."""

    @property
    def region(self) -> int:
        """Which of the layout's regions."""

    @property
    def offset(self) -> int:
        """Bytes in the region."""

    @property
    def address(self) -> int:
        """Of the first element; 0 for files."""

    @property
    def bytes(self) -> int:
        """From the first element to behind the last."""

    @property
    def is_contiguous(self) -> bool: ...

    @property
    def dims(self) -> tuple[Dim, ...]:
        """Names of the axes."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes, one an axis."""

class StoreSpace:
    """Room that a store takes and has."""

    @property
    def bytes_allocated(self) -> int:
        """On its storage, its bookkeeping included; 0: unknown."""

    @property
    def extents_total(self) -> int: ...

    @property
    def extents_written(self) -> int: ...

    @property
    def extents_torn(self) -> int:
        """Begun and not ended."""

    @property
    def extents_damaged(self) -> int:
        """As far as it is known without reading them."""

    @property
    def file_system_free(self) -> int:
        """0 and 0: unknown."""

    @property
    def file_system_total(self) -> int: ...

    def __repr__(self) -> str: ...

class PhysicalLayout:
    """
    Blocks of one shape, in one format, in one storage. Cheap to copy; its memory lives as long as any copy or transfer uses it.
    """

    @staticmethod
    def open_disk(path: str | os.PathLike[str] | list[str | os.PathLike[str]] | tuple[str | os.PathLike[str], ...], *, read_only: bool = False) -> PhysicalLayout:
        """
        Reopens what allocate_disk(path) made, several files by the first of them, or by all where they have moved; TransferManager.open_disk does so with the manager's I/O engine.
        """

    @property
    def config(self) -> LayoutConfig: ...

    @property
    def kind(self) -> LayoutKind: ...

    @property
    def block_dimension(self) -> BlockDimension: ...

    @property
    def format(self) -> KvBlockLayout: ...

    @property
    def storage_kind(self) -> StorageKind: ...

    @property
    def device_id(self) -> int: ...

    @property
    def regions(self) -> list[Region]:
        """One (fully contiguous) or one a layer."""

    def store_space(self) -> StoreSpace | None:
        """
        Room that the files of a disk layout take and have; None for memory. Object stores do not know it.
        """

    def object_store(self) -> ObjectStore | None:
        """
        The objects of a layout that allocate_object() made, for blocks by content key; None for memory and files.
        """

    @property
    def extents_per_block(self) -> int: ...

    def chunk_view(self, block: int, layer: int, outer: int) -> BlockView:
        """Address, size and strides of one (block, layer, outer)."""

    def block_view(self, block: int) -> BlockView:
        """The same of a whole block, where one region has it."""

    def fingerprint(self) -> Checksum:
        """
        Stable hash of everything that decides which byte means what inside a block.
        """

    def shape_fingerprint(self) -> Checksum:
        """
        Stable hash of the logical tensor: equal ones can be copied into each other.
        """

    def descriptor_json(self) -> str:
        """What another process needs to know to address the same bytes."""

    def with_format(self, format: KvBlockLayout) -> PhysicalLayout:
        """The same regions read as another format."""

    def __str__(self) -> str: ...

    def __repr__(self) -> str: ...

    @staticmethod
    def builder() -> PhysicalLayoutBuilder:
        """
        A builder on host memory and files; TransferManager.layout_builder() knows the manager's devices too.
        """

class KvBlocks:
    """
    Blocks of one layout with, optionally, another reading of their format. Immutable; keeps the layout alive.
    """

    @staticmethod
    def of(layout: PhysicalLayout, block_ids: kvbm_cpp._types.BlockIds, override_format: KvBlockLayout | None = None) -> KvBlocks:
        """Blocks of a layout that needs no registration."""

    @property
    def layout(self) -> PhysicalLayout:
        """Read in the override's format where there is one."""

    @property
    def handle(self) -> LayoutHandle | None:
        """Where it came from a manager."""

    @property
    def block_ids(self) -> list[int]: ...

    @property
    def override_format(self) -> KvBlockLayout | None: ...

    def requires_transform_to(self, other: KvBlocks) -> bool:
        """Whether bytes would have to be rearranged to go to `other`."""

    def __len__(self) -> int: ...

class PhysicalLayoutBuilder:
    """
    Collects config, kind and memory of a PhysicalLayout, each once, in any order. Every step returns a new builder. Nothing is allocated before build().
    """

    def config(self, config: LayoutConfig) -> PhysicalLayoutBuilder:
        """The logical shape."""

    def fully_contiguous(self, format: KvBlockLayout | None = None) -> PhysicalLayoutBuilder:
        """
        One region. Default format: OperationalNHD if the config has num_heads, else Unknown.
        """

    @overload
    def layer_separate(self, block_dimension: BlockDimension, format: KvBlockLayout | None = None) -> PhysicalLayoutBuilder:
        """One region a layer. Default format as above."""

    @overload
    def layer_separate(self, tensor: KvDimLayout) -> PhysicalLayoutBuilder:
        """
        One region a layer, each an engine's tensor in any order of its dimensions.
        """

    def allocate_system(self) -> PhysicalLayoutBuilder:
        """Owned pageable memory."""

    def allocate_pinned(self, near_device: int = -1) -> PhysicalLayoutBuilder:
        """Owned pinned memory, near a device (-1 = anywhere)."""

    def allocate_device(self, id: int) -> PhysicalLayoutBuilder:
        """Owned memory of a device."""

    def allocate_disk(self, path: str | os.PathLike[str] | list[str | os.PathLike[str]] | tuple[str | os.PathLike[str], ...] | None = None) -> PhysicalLayoutBuilder:
        """
        A preallocated file that must not exist yet; without a path a temporary one. Several paths, one a device, share the blocks in turn.
        """

    def allocate_object(self, bucket: str, prefix: str = '', *, endpoint: str | None = None, region: str | None = None, credentials: Credentials | None = None, model: str | None = None, format: str | None = None, tp_size: int = 1, tp_rank: int = 0, blocks_per_object: int = 0, read_only: bool = False, transport: ObjectTransport = ..., nixl_library: str | os.PathLike[str] | None = None, path_style: bool | None = None, ca_file: str | os.PathLike[str] | None = None, sign_payloads: bool | None = None, connections: int = 32, threads: int = 0, connect_timeout: float = 3.0, stall_timeout: float = 5.0, deadline: float = 30.0, max_retries: int = 5) -> PhysicalLayoutBuilder:
        """
        Blocks as objects of a bucket of S3, which must be there; blocks that it has already keep their contents. Fully contiguous layouts only. Not given: endpoint, region and ca_file are those of the environment (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_REGION, AWS_DEFAULT_REGION, AWS_CA_BUNDLE), else AWS itself; credentials are Credentials.from_chain(); model and format are the fingerprint of the shape and the layout's format, so that blocks of another shape never meet these. Several blocks an object (up to 32; 0: chosen) where blocks are small. transport says who moves the objects, ObjectTransport.Curl unless given. Times in seconds: stall_timeout is how long an attempt may stand still, deadline how long a request may take with all its attempts. build() asks the endpoint once, without retries.
        """

    def with_external_regions(self, regions: Sequence[kvbm_cpp._types.TensorLike], *, kind: StorageKind = ...) -> PhysicalLayoutBuilder:
        """
        Host memory of the caller, without a copy: one tensor, or one a layer. The layout keeps the tensors alive.
        """

    def with_external_device_regions(self, regions: Sequence[kvbm_cpp._types.TensorLike], *, device_id: int = 0) -> PhysicalLayoutBuilder:
        """
        Device memory of the engine, without a copy: one tensor, or one a layer. The layout keeps the tensors alive.
        """

    def with_regions(self, regions: Iterable[Region]) -> PhysicalLayoutBuilder:
        """Regions that exist already."""

    def build(self) -> PhysicalLayout:
        """Checks everything, allocates, and returns the layout."""

class DamagedExtent:
    """An extent that cannot be trusted."""

    @property
    def store(self) -> str:
        """The file or URL."""

    @property
    def group(self) -> int: ...

    @property
    def extent(self) -> int:
        """Its number in the group; of a fully contiguous layout, the block."""

    @property
    def error(self) -> kvbm_cpp._errors.Error:
        """Why."""

    @property
    def invalidated(self) -> bool:
        """Whether it was forgotten."""

    def __repr__(self) -> str: ...

class ScrubCounters:
    """What a Scrubber has done so far."""

    @property
    def passes(self) -> int:
        """Ended ones."""

    @property
    def failed_passes(self) -> int:
        """Those that the store cut short with an error."""

    @property
    def extents_checked(self) -> int:
        """Read and compared; those never written are not."""

    @property
    def bytes_checked(self) -> int: ...

    @property
    def damaged(self) -> int:
        """Reported."""

    @property
    def overwritten(self) -> int:
        """Changed by a writer while they were read, hence not judged."""

class Scrubber:
    """
    Walks all extents of a layout on disk or in an object store again and again on a thread of its own, and reports what no longer fits its checksum. Writers need not stop. The first pass starts at once. A context manager that stops it at the end.
    """

    def __init__(self, layout: PhysicalLayout, *, bytes_per_second: int = 67108864, batch_bytes: int = 4194304, between_passes: float = 86400.0, max_passes: int = 0, invalidate_damaged: bool = False, on_damage: Callable[[DamagedExtent], object] | None = None) -> None:
        """
        bytes_per_second 0: as fast as the store is; max_passes 0: for ever. on_damage is called on the scrubber's thread; an exception goes to sys.unraisablehook.
        """

    def pause(self) -> None:
        """Keeps it from starting reads until resume()."""

    def resume(self) -> None: ...

    def start_pass(self) -> None:
        """Starts the next pass now if it waits between two."""

    def stop(self) -> None:
        """Ends it for good after the batch under way. Not from on_damage."""

    def wait_for_passes(self, passes: int, timeout: float | None = None) -> bool:
        """
        Waits until so many passes have ended or failed since the start, or it has stopped, or `timeout` seconds are over; returns whether they have.
        """

    def counters(self) -> ScrubCounters: ...

    @property
    def is_running(self) -> bool: ...

    def __enter__(self) -> Scrubber: ...

    def __exit__(self, *args: object) -> None: ...

class FailedBlock:
    """A block of a transfer that did not arrive."""

    @property
    def position(self) -> int:
        """Index into the transfer's block lists."""

    @property
    def error(self) -> kvbm_cpp._errors.Error:
        """Why."""

    def __repr__(self) -> str: ...

class TransferCompleteNotification:
    """
    The outcome of a transfer, now or later. Awaitable in asyncio. Dropping it neither blocks nor cancels; all methods may be called from any thread.
    """

    @staticmethod
    def completed() -> TransferCompleteNotification:
        """Ready, successful."""

    def is_ready(self) -> bool:
        """Whether the outcome is known."""

    def could_yield(self) -> bool:
        """
        Whether waiting may block at all: False exactly for transfers done synchronously.
        """

    def wait(self, timeout: float | None = None) -> None:
        """
        Blocks until the outcome is known and raises the error of a failed transfer; raises kvbm_cpp.TimeoutError after `timeout` seconds, while the transfer goes on.
        """

    def wait_for(self, timeout: float) -> bool:
        """
        Blocks for at most `timeout` seconds; returns whether the outcome is known, and raises the error of a failed transfer.
        """

    def error(self) -> kvbm_cpp._errors.Error | None:
        """The error of a failed transfer; None while pending and after success."""

    def failed_blocks(self) -> list[FailedBlock]:
        """
        Blocks that did not arrive; after a failure every block not listed arrived completely.
        """

    def then(self, callback: Callable[[kvbm_cpp._errors.Error | None], object]) -> None:
        """
        Calls callback(error) once when the outcome is known (None: success), on the event system's thread; at once, in this thread, where it is known already. An exception goes to sys.unraisablehook.
        """

    @staticmethod
    def aggregate(notifications: Sequence[TransferCompleteNotification]) -> TransferCompleteNotification:
        """
        One notification for many: completes after all ended, and fails with every failure in its message.
        """

    def __await__(self) -> Generator[Any, None, None]: ...

    def __repr__(self) -> str: ...

class Spare(enum.Enum):
    """What a transfer should leave to others."""

    Fastest = 0
    """whatever is quickest"""

    SpareSms = 1
    """leave the GPU's multiprocessors and its memory to the model"""

    SpareCpu = 2
    """host copies run in one thread"""

class NativeVsNixlPolicy(enum.Enum):
    """Which of two working paths to take."""

    PreferNative = 0

    PreferNixl = 1

    Automatic = 2

class StopSource:
    """Cancels the transfers whose TransferOptions name it."""

    def __init__(self) -> None: ...

    def request_stop(self) -> bool:
        """Whether this call was the first one."""

    def stop_requested(self) -> bool: ...

class BounceBuffer:
    """
    Blocks of a registered layout to stage through where there is no direct path.
    """

    @staticmethod
    def from_handle(handle: LayoutHandle, block_ids: kvbm_cpp._types.BlockIds) -> BounceBuffer: ...

    @property
    def handle(self) -> LayoutHandle: ...

    @property
    def block_ids(self) -> list[int]: ...

class TransferOptions:
    """
    How one transfer is done. Every option works with every strategy, or the call is refused with the reason.
    """

    def __init__(self, *, layer_range: kvbm_cpp._types.Range | None = None, head_range: kvbm_cpp._types.Range | None = None, src_head_range: kvbm_cpp._types.Range | None = None, dst_head_range: kvbm_cpp._types.Range | None = None, src_kv_layout: KvBlockLayout | None = None, dst_kv_layout: KvBlockLayout | None = None, bounce_buffer: BounceBuffer | None = None, nixl_write_notification: int | None = None, cuda_stream: kvbm_cpp._types.StreamLike | None = None, wait_for: Iterable[kvbm_cpp._types.EventLike] | None = None, record_on: Iterable[kvbm_cpp._types.StreamLike] | None = None, timeout: float | None = None, cancellation: StopSource | None = None, priority: int = 0, max_sms: int | None = None, spare: Spare = ..., strategy: Strategy | str | None = None) -> None:
        """
        head_range is src_head_range and dst_head_range in one; timeout is in seconds from submission; with cuda_stream all work goes onto that stream and the notification is ready at once. Streams and events may be kvbm's or those of torch, cupy and cuda.core, or CUDA handles as ints; they are kept alive as long as a transfer needs them. An event means the point that it marked when the transfer was submitted.
        """

    @property
    def layer_range(self) -> range | None: ...

    @property
    def src_head_range(self) -> range | None: ...

    @property
    def dst_head_range(self) -> range | None: ...

    @property
    def src_kv_layout(self) -> KvBlockLayout | None: ...

    @property
    def dst_kv_layout(self) -> KvBlockLayout | None: ...

    @property
    def timeout(self) -> float | None:
        """Seconds."""

    @property
    def priority(self) -> int: ...

    @property
    def max_sms(self) -> int | None: ...

    @property
    def spare(self) -> Spare: ...

    @property
    def strategy(self) -> Strategy | None: ...

class TransferCapabilities:
    """What this process may use; all off by default."""

    def __init__(self, *, allow_gds: bool = False, allow_gpu_rdma: bool = False) -> None: ...

    @property
    def allow_gds(self) -> bool: ...

    @property
    def allow_gpu_rdma(self) -> bool: ...

    def with_gds_if_supported(self) -> TransferCapabilities:
        """A copy with it on if this machine has it."""

    def with_gpu_rdma_if_supported(self) -> TransferCapabilities:
        """A copy with it on if this machine has it."""

    def __eq__(self, other: object, /) -> bool: ...

class TransferPreferences:
    """Preferences among paths that all work."""

    def __init__(self, *, native_vs_nixl: NativeVsNixlPolicy = NativeVsNixlPolicy.Automatic) -> None: ...

    @property
    def native_vs_nixl(self) -> NativeVsNixlPolicy: ...

    def __eq__(self, other: object, /) -> bool: ...

class RatePoint:
    """A rate that was measured at one length of contiguous runs."""

    def __init__(self, run_bytes: int, bytes_per_second: float) -> None: ...

    @property
    def run_bytes(self) -> int: ...

    @property
    def bytes_per_second(self) -> float: ...

    def __eq__(self, other: object, /) -> bool: ...

    def __repr__(self) -> str: ...

class PathCosts:
    """
    What one way of a GPU costs: a fixed part, and a rate that depends on the run length.
    """

    def __init__(self) -> None: ...

    @property
    def latency(self) -> float:
        """Seconds of a tiny transfer."""

    @latency.setter
    def latency(self, arg: float, /) -> None: ...

    @property
    def rates(self) -> list[RatePoint]:
        """
        Ascending run lengths, at least one point. A copy: assign the whole list.
        """

    @rates.setter
    def rates(self, arg: Sequence[RatePoint], /) -> None: ...

    def rate(self, run_bytes: float) -> float:
        """
        Bytes per second at a run length: interpolated in logarithms, constant beyond the ends.
        """

    def __eq__(self, other: object, /) -> bool: ...

class LinkDirection(enum.Enum):
    """Which way bytes cross a GPU's link."""

    HostToDevice = 0

    DeviceToHost = 1

    DeviceToDevice = 2

class LinkCosts:
    """The ways in one direction of a link."""

    def __init__(self) -> None: ...

    @property
    def dma(self) -> PathCosts:
        """By length of the runs that the copy engines move."""

    @dma.setter
    def dma(self, arg: PathCosts, /) -> None: ...

    @property
    def sm(self) -> PathCosts:
        """A kernel straight between both sides, by run length."""

    @sm.setter
    def sm(self, arg: PathCosts, /) -> None: ...

    @property
    def gather(self) -> PathCosts:
        """A kernel between blocks and the ring in HBM, by run length."""

    @gather.setter
    def gather(self, arg: PathCosts, /) -> None: ...

    def __eq__(self, other: object, /) -> bool: ...

class GpuCosts:
    """What a GPU and its link do; the defaults are those of an H200."""

    def __init__(self) -> None: ...

    @property
    def h2d(self) -> LinkCosts: ...

    @h2d.setter
    def h2d(self, arg: LinkCosts, /) -> None: ...

    @property
    def d2h(self) -> LinkCosts: ...

    @d2h.setter
    def d2h(self, arg: LinkCosts, /) -> None: ...

    @property
    def d2d(self) -> LinkCosts: ...

    @d2d.setter
    def d2d(self, arg: LinkCosts, /) -> None: ...

    def __getitem__(self, direction: LinkDirection) -> LinkCosts: ...

    def __eq__(self, other: object, /) -> bool: ...

class CostModel:
    """
    Rates in bytes per second and latencies in seconds that estimates are made from.
    """

    def __init__(self) -> None: ...

    @property
    def host_copy_rate(self) -> float: ...

    @host_copy_rate.setter
    def host_copy_rate(self, arg: float, /) -> None: ...

    @property
    def host_permute_rate(self) -> float: ...

    @host_permute_rate.setter
    def host_permute_rate(self, arg: float, /) -> None: ...

    @property
    def host_element_rate(self) -> float: ...

    @host_element_rate.setter
    def host_element_rate(self, arg: float, /) -> None: ...

    @property
    def disk_read_rate(self) -> float: ...

    @disk_read_rate.setter
    def disk_read_rate(self, arg: float, /) -> None: ...

    @property
    def disk_write_rate(self) -> float: ...

    @disk_write_rate.setter
    def disk_write_rate(self, arg: float, /) -> None: ...

    @property
    def stream_latency(self) -> float: ...

    @stream_latency.setter
    def stream_latency(self, arg: float, /) -> None: ...

    @property
    def disk_latency(self) -> float: ...

    @disk_latency.setter
    def disk_latency(self, arg: float, /) -> None: ...

    @property
    def gpu(self) -> GpuCosts: ...

    @gpu.setter
    def gpu(self, arg: GpuCosts, /) -> None: ...

    @staticmethod
    def load(device: Device) -> CostModel | None:
        """
        The costs that `kvbm tune` or save() kept for this device with this driver. A manager on a GPU takes them by itself where it is given no cost_model.
        """

    def save(self, device: Device) -> str:
        """
        Keeps them for later processes; returns the file, below XDG_CACHE_HOME or ~/.cache.
        """

class Strategy(enum.Enum):
    """The ways to execute a plan."""

    HostCopy = 0
    """copy threads, in the caller's call"""

    StreamCopy = 1
    """copy threads, in the order of a stream"""

    DmaCopy = 2
    """the GPU's copy engines, one DMA a contiguous run"""

    SmCopy = 3
    """a kernel straight between the two sides"""

    StagedDma = 4
    """a kernel and a ring in HBM, DMA does the rest"""

    PinnedStaging = 5
    """pageable memory to or from a GPU through pinned staging memory"""

    DirectFile = 6
    """file I/O straight from or into memory"""

    StagedFile = 7
    """file I/O through pinned staging memory"""

    DirectStorage = 8
    """GPUDirect Storage: file I/O straight from and into a GPU's memory"""

    DirectRemote = 9
    """NIXL straight between this worker's memory and the peer's"""

    StagedRemote = 10
    """NIXL between the peer's memory and staging memory here in its order"""

    PackedRemote = 11
    """NIXL between dense images on both sides: the peer helps"""

class CopyPlan:
    """What is copied: runs of bytes, the same for every block."""

    @property
    def run_bytes(self) -> int:
        """Bytes of one contiguous run."""

    @property
    def runs_per_block(self) -> int: ...

    @property
    def num_segments(self) -> int: ...

    @property
    def bytes_per_block(self) -> int: ...

    def __str__(self) -> str: ...

class Candidate:
    """A strategy that was considered."""

    @property
    def strategy(self) -> Strategy: ...

    @property
    def estimated_seconds(self) -> float | None:
        """None if refused."""

    @property
    def reason(self) -> str:
        """Why refused, or what it does."""

class TransferExplanation:
    """What a transfer would do, and why. str() gives a few lines for people."""

    @property
    def plan(self) -> CopyPlan: ...

    @property
    def strategy(self) -> Strategy: ...

    @property
    def estimated_seconds(self) -> float: ...

    @property
    def reason(self) -> str: ...

    @property
    def candidates(self) -> list[Candidate]: ...

    @property
    def notes(self) -> list[str]: ...

    @property
    def hops(self) -> list[str]: ...

    @property
    def num_blocks(self) -> int: ...

    @property
    def total_bytes(self) -> int: ...

    def __str__(self) -> str: ...

class PreparedTransfer:
    """
    A transfer of which only the block ids are missing. Keeps its layouts alive; may be submitted from any thread, any number of times.
    """

    def submit(self, src_blocks: kvbm_cpp._types.BlockIds, dst_blocks: kvbm_cpp._types.BlockIds) -> TransferCompleteNotification:
        """Moves src_blocks[i] to dst_blocks[i]."""

    def explain(self, src_blocks: kvbm_cpp._types.BlockIds, dst_blocks: kvbm_cpp._types.BlockIds) -> TransferExplanation:
        """What submit() would do."""

    @property
    def plan(self) -> CopyPlan: ...

class PlanCacheStats:
    """
    How often execute_transfer and prepare_transfer found their plan ready.
    """

    @property
    def hits(self) -> int: ...

    @property
    def misses(self) -> int: ...

    @property
    def entries(self) -> int:
        """Kept now."""

    @property
    def capacity(self) -> int:
        """Kept at most."""

class EventSystem:
    """Makes events and runs callbacks on one thread; managers may share it."""

    def __init__(self) -> None: ...

    @property
    def worker_id(self) -> int:
        """Random, unique per event system and process instance."""

    def num_pending(self) -> int:
        """Events that are pending."""

class LogicalLayoutHandle(enum.Enum):
    """
    The place of a layout in the hierarchy of tiers, the same name on every worker.
    """

    G1 = 0
    """device memory"""

    G2 = 1
    """host memory"""

    G3 = 2
    """local disk"""

    G4 = 3
    """object store"""

def tier_of(kind: StorageKind) -> LogicalLayoutHandle:
    """The tier that a kind of storage belongs to."""

class LogicalLayoutDescriptor:
    """One layout of a worker: what it is, where it lies, and what it is for."""

    @property
    def handle(self) -> LayoutHandle: ...

    @property
    def tier(self) -> LogicalLayoutHandle: ...

    @property
    def is_gpu(self) -> bool:
        """Device memory that only a GPU's engines reach, not the emulated kind."""

    @property
    def config(self) -> LayoutConfig: ...

    @property
    def kind(self) -> LayoutKind: ...

    @property
    def format(self) -> KvBlockLayout: ...

    @property
    def regions(self) -> list[tuple[int, int]]:
        """Address in the worker, and bytes, of each region."""

    @property
    def is_shared(self) -> bool:
        """Whether processes of the same machine can map it."""

    def __eq__(self, other: object, /) -> bool: ...

    def __repr__(self) -> str: ...

class WorkerAddress:
    """How the wire reaches a worker."""

    @property
    def agent_name(self) -> str: ...

    @property
    def nixl_metadata(self) -> bytes:
        """What NIXL's agent of that name says about itself."""

    def to_bytes(self) -> bytes:
        """A versioned and checksummed blob."""

    @staticmethod
    def from_bytes(data: bytes) -> WorkerAddress:
        """Reads what to_bytes wrote; the bytes are not trusted."""

    def __eq__(self, other: object, /) -> bool: ...

    def __repr__(self) -> str: ...

class SerializedLayout:
    """Everything that a peer needs to address the layouts of one worker."""

    @property
    def worker_id(self) -> int: ...

    @property
    def address(self) -> WorkerAddress: ...

    @property
    def layouts(self) -> list[LogicalLayoutDescriptor]: ...

    @property
    def landing_bytes(self) -> int:
        """Memory that the worker lends to peers."""

    def to_bytes(self) -> bytes:
        """A versioned and checksummed blob; equal values give equal bytes."""

    @staticmethod
    def from_bytes(data: bytes) -> SerializedLayout:
        """
        Reads what to_bytes wrote; the bytes are not trusted. VersionMismatchError, CorruptError naming the field and what is wrong with it.
        """

    def to_json(self) -> str:
        """For people; what NIXL says as its length and checksum."""

    def __eq__(self, other: object, /) -> bool: ...

    def __repr__(self) -> str: ...

class HeadTransfer:
    """
    What one rank of the source sends to one rank of the destination. Ranges count heads from the first one that the rank itself holds, as src_head_range and dst_head_range do; None for MLA: the whole block.
    """

    @property
    def src_rank(self) -> int: ...

    @property
    def dst_rank(self) -> int: ...

    @property
    def src_heads(self) -> range | None: ...

    @property
    def dst_heads(self) -> range | None: ...

    def __eq__(self, other: object, /) -> bool: ...

    def __repr__(self) -> str: ...

def plan_resharding(total_heads: int, src_tp: int, dst_tp: int) -> list[HeadTransfer]:
    """
    Who sends which heads to whom when src_tp ranks hold what dst_tp ranks shall get. Every head of every destination rank is sent to it exactly once; total_heads 0 means MLA. Ordered by dst_rank, then by dst_heads.
    """

def transfers_from(plan: Sequence[HeadTransfer], src_rank: int) -> list[HeadTransfer]:
    """Those that this rank sends, in their order."""

def transfers_to(plan: Sequence[HeadTransfer], dst_rank: int) -> list[HeadTransfer]:
    """Those that this rank receives, in their order."""

def heads_of_rank(total_heads: int, tp: int, rank: int) -> range:
    """Heads, counted over the whole model, that `rank` of `tp` holds."""

class NixlLibraryInfo:
    """A NIXL that lies on this machine."""

    @property
    def path(self) -> pathlib.Path:
        """Of libnixl_capi.so."""

    @property
    def version(self) -> str:
        """Of the package that it came with; empty: unknown."""

    @property
    def plugins(self) -> list[str]:
        """Names of its backends' files: present, not tried."""

    def __repr__(self) -> str: ...

def find_nixl(library: str | os.PathLike[str] | None = None, *, prefixes: Iterable[str | os.PathLike[str]] = ()) -> NixlLibraryInfo:
    """
    Finds NIXL without loading it: `library` itself; KVBM_NIXL_LIBRARY; the wheels nixl-cu13 and nixl-cu12 in `prefixes`, in VIRTUAL_ENV and in this Python environment; the system's. UnsupportedError says where it looked and how to get one.
    """

class RemoteStats:
    """Counts since the worker started."""

    @property
    def notifications(self) -> int:
        """Write notifications received."""

    @property
    def undelivered(self) -> int:
        """Of these, dropped because nobody ever subscribed."""

    @property
    def foreign_messages(self) -> int:
        """Ignored: not kvbm's, damaged, or of unknown workers."""

    @property
    def duplicate_messages(self) -> int:
        """Ignored: came before."""

    @property
    def images(self) -> int:
        """Copied for peers."""

    @property
    def workers(self) -> int:
        """That this one has imported, now."""

    @property
    def importers(self) -> int:
        """That have imported this one, now."""

    @property
    def landing_bytes_lent(self) -> int:
        """Now."""

class WriteNotification:
    """What a peer's transfer sent after its blocks had arrived. Hashable."""

    def __init__(self, worker_id: int, value: int) -> None: ...

    @property
    def worker_id(self) -> int:
        """Of the sender."""

    @property
    def value(self) -> int:
        """What the sender gave as nixl_write_notification."""

    def __eq__(self, other: object, /) -> bool: ...

    def __hash__(self) -> int: ...

    def __repr__(self) -> str: ...

class WriteNotices:
    """
    A subscription: receives every write notification from its start on, each exactly once, in the order in which it came; several subscriptions receive all of them each. What came before there was any is kept for the first one. All methods may be called from any thread; `async for` works too, and ends with the manager.
    """

    def next(self, timeout: float | None = None) -> WriteNotification | None:
        """
        Waits for the next one, at most `timeout` seconds; None then, and once the manager is closed.
        """

    def on_each(self, callback: Callable[[WriteNotification], object]) -> None:
        """
        Calls callback(notification) for every one from now on, on a thread of this subscription's own, until it is dropped or the manager closed; next() then receives none. An exception goes to sys.unraisablehook.
        """

    def poll(self, timeout: float) -> tuple[bool, bool]:
        """
        Waits for the next one, at most about `timeout` seconds, without taking it: whether next(0) gives it, and whether nothing more will come.
        """

    def __aiter__(self) -> AsyncIterator[WriteNotification]: ...

class MetadataExchange:
    """
    How serialized metadata gets from a worker to its peers. One owner of names: when it ends, everything it published is gone. All methods may be called from any thread.
    """

    def publish(self, name: str, metadata: bytes) -> None:
        """
        Makes `metadata` visible under `name`, at once and whole; replaces what this exchange published under it before. AlreadyExistsError when another live owner has the name.
        """

    def withdraw(self, name: str) -> None:
        """Takes back what this exchange published under `name`."""

    def fetch(self, name: str, timeout: float = 0.0) -> bytes:
        """
        What is published under `name`, by anybody; waits until there is something, at most `timeout` seconds: TimeoutError then.
        """

    def list(self) -> list[str]:
        """Every name that could be fetched now, sorted."""

    @staticmethod
    def in_process(other: MetadataExchange | None = None) -> MetadataExchange:
        """
        For workers in one process: what is published is seen through the same object, and through those that were made beside it.
        """

    @staticmethod
    def folder(path: str | os.PathLike[str]) -> MetadataExchange:
        """
        Over files in a folder, which may be on a network file system. Those of dead processes of this machine count as absent.
        """

    @staticmethod
    def tcp(*, token: str, bind_address: str = "", port: int = 0, peers: Sequence[str] = ..., max_connections: int = 64, io_timeout: float = 5.0) -> TcpExchange:
        """
        Without anything between: each worker serves what it published itself on bind_address (a numeric one; empty: serves nothing) and asks `peers`. `token` is a secret of at least 16 bytes that all workers share; it never travels. Metadata is not encrypted.
        """

    @staticmethod
    def etcd(endpoints: Sequence[str], *, prefix: str = "/kvbm/exchange/", lease_ttl: float = 10.0, request_timeout: float = 5.0, name_timeout: float = 0.0, ca_file: str | os.PathLike[str] | None = None, certificate_file: str | os.PathLike[str] | None = None, key_file: str | os.PathLike[str] | None = None) -> MetadataExchange:
        """
        Over etcd 3.4 or newer ("http://host:port"). Entries hang on a lease, so that those of a dead worker disappear after lease_ttl seconds; name_timeout is how long publish() waits for a name that somebody else has.
        """

class TcpExchange(MetadataExchange):
    """A MetadataExchange over TCP."""

    @property
    def address(self) -> str:
        """
        "address:port" that this exchange serves on; empty when it serves nothing.
        """

    def add_peer(self, peer: str) -> None:
        """Asks one more peer, "host:port", from now on."""

class LatencyHistogram:
    """How long transfers took, in buckets of powers of two."""

    @property
    def bounds(self) -> list[float]:
        """The longest time, in seconds, that each bucket but the last counts."""

    @property
    def buckets(self) -> list[int]:
        """
        Transfers in each bucket, not cumulative; the last one took even longer.
        """

    @property
    def count(self) -> int:
        """Transfers in all buckets."""

    @property
    def sum(self) -> float:
        """In seconds."""

class TransferCounts:
    """
    What became of transfers: submitted == completed + failed + cancelled + in_flight, and bytes_submitted == bytes_completed + bytes_failed + bytes_in_flight, at any time.
    """

    @property
    def submitted(self) -> int:
        """Transfers that were accepted."""

    @property
    def completed(self) -> int:
        """Without an error."""

    @property
    def failed(self) -> int:
        """In whole or in part, deadlines included."""

    @property
    def cancelled(self) -> int:
        """Stopped by the caller's token."""

    @property
    def in_flight(self) -> int:
        """Now."""

    @property
    def bytes_submitted(self) -> int: ...

    @property
    def bytes_completed(self) -> int:
        """Of blocks that arrived."""

    @property
    def bytes_failed(self) -> int:
        """Of blocks that did not."""

    @property
    def bytes_in_flight(self) -> int:
        """Now."""

    @property
    def latency(self) -> LatencyHistogram:
        """Of transfers that ended, well or not."""

    @property
    def errors(self) -> dict[ErrorCode, int]:
        """
        Transfers that failed, by error code; codes that never came are left out.
        """

class RouteStats:
    """One route's part of TransferStats."""

    @property
    def src(self) -> StorageKind: ...

    @property
    def dst(self) -> StorageKind: ...

    @property
    def route(self) -> str:
        """'device_to_pinned', ..."""

    @property
    def reach(self) -> str:
        """'local', 'from_peer' or 'to_peer'."""

    @property
    def counts(self) -> TransferCounts: ...

class TransferStats:
    """What a manager's transfers came to since it was made."""

    @property
    def routes(self) -> list[RouteStats]:
        """Those that were ever used."""

    @property
    def total(self) -> TransferCounts:
        """The sum over all routes."""

    def of(self, route: str, reach: str = 'local') -> TransferCounts:
        """
        One route's counts, zeros where it was never used: of('device_to_pinned').
        """

class ManagerStats:
    """What a manager counts."""

    @property
    def transfers(self) -> TransferStats: ...

    @property
    def plan_cache(self) -> PlanCacheStats: ...

    @property
    def memory_pool(self) -> MemoryPoolStats:
        """The first device's temporaries."""

    @property
    def num_layouts(self) -> int:
        """Registered now."""

    @property
    def num_pending_events(self) -> int:
        """Now."""

    @property
    def remote(self) -> RemoteStats | None:
        """None without a NIXL backend."""

class DiskEngine(enum.Enum):
    """Which engine moves bytes to and from files."""

    Auto = 0
    """io_uring where the kernel allows it"""

    IoUring = 1

    Threads = 2
    """pread and pwrite"""

class TransferManager:
    """
    The one door: registers layouts and moves blocks between them. All methods may be called from any thread. A context manager: leaving it closes it.
    """

    def __init__(self, *, host_devices: int | None = None, host_device_bytes: int | None = None, devices: Iterable[Device] | None = None, cuda_device_id: int | Iterable[int] | None = None, nixl_backends: str | Iterable[str] | Mapping[str, Mapping[str, object]] | None = None, nixl_library: str | os.PathLike[str] | None = None, agent_name: str | None = None, landing_bytes: int | None = None, remote_timeout: float | None = None, map_peer_memory: bool | None = None, capabilities: TransferCapabilities | None = None, preferences: TransferPreferences | None = None, event_system: EventSystem | None = None, cost_model: CostModel | None = None, num_h2d_streams: int | None = None, num_d2h_streams: int | None = None, copy_threads: int | None = None, file_workers: int | None = None, staging_bytes: int | None = None, cuda_pool_reserve_size: int | None = None, cuda_pool_release_threshold: int | None = None, plan_cache_capacity: int | None = None, disk_engine: DiskEngine | None = None, allow_direct: bool | None = None, disk_queue_depth: int | None = None, disk_threads: int | None = None) -> None:
        """
        Defaults: one emulated device of 4 GiB, 4 + 4 streams, all CPUs for copies, 2 file workers with 32 MiB of staging each, io_uring and O_DIRECT where there are. With several devices the first one's streams are the pools. With nixl_backends (names, or names with their parameters; "ucx" for other workers) the manager is a worker among others: nixl_library is where NIXL lies (default: find_nixl), agent_name unique among those that meet, landing_bytes (64 MiB) what peers may borrow to exchange dense images, remote_timeout (30 s) how long peers may take, map_peer_memory whether memory of peers on this machine is mapped (default) or reached through NIXL as well.
        """

    def close(self) -> None:
        """
        Waits for the transfers in flight and gives everything back; calls after it raise ShuttingDownError.
        """

    @property
    def is_closed(self) -> bool: ...

    def __enter__(self) -> TransferManager: ...

    def __exit__(self, exc_type: object, exc: object, traceback: object) -> None: ...

    @property
    def worker_id(self) -> int:
        """Random, unique per event system and process instance."""

    def layout_builder(self) -> PhysicalLayoutBuilder:
        """Starts a layout on this manager's memory."""

    def open_disk(self, path: str | os.PathLike[str] | list[str | os.PathLike[str]] | tuple[str | os.PathLike[str], ...], *, read_only: bool = False) -> PhysicalLayout:
        """
        Reopens a disk layout: config, kind and format come from its manifest. Any number of processes may read, one may write.
        """

    def register_layout(self, layout: PhysicalLayout) -> LayoutHandle:
        """Makes a layout known under a new handle."""

    def unregister_layout(self, handle: LayoutHandle) -> None:
        """
        Forgets a layout; BusyError while transfers use it. Where its metadata was exported, the workers that imported it have to confirm first: BusyError where one does not within remote_timeout.
        """

    def layout(self, handle: LayoutHandle) -> PhysicalLayout: ...

    def handles(self) -> list[LayoutHandle]:
        """Handles of all registered layouts, ascending."""

    def blocks(self, handle: LayoutHandle, block_ids: kvbm_cpp._types.BlockIds, override_format: KvBlockLayout | None = None) -> KvBlocks:
        """Blocks of a registered layout."""

    @overload
    def execute_transfer(self, src: LayoutHandle, src_blocks: kvbm_cpp._types.BlockIds, dst: LayoutHandle, dst_blocks: kvbm_cpp._types.BlockIds, options: TransferOptions | None = None) -> TransferCompleteNotification:
        """
        Moves src_blocks[i] of `src` to dst_blocks[i] of `dst`, changing format, kind and storage as needed. An array of uint32 ids is read in place: leave it alone until the call returns.
        """

    @overload
    def execute_transfer(self, src: KvBlocks, dst: KvBlocks, options: TransferOptions | None = None) -> TransferCompleteNotification: ...

    @overload
    def explain_transfer(self, src: LayoutHandle, src_blocks: kvbm_cpp._types.BlockIds, dst: LayoutHandle, dst_blocks: kvbm_cpp._types.BlockIds, options: TransferOptions | None = None) -> TransferExplanation:
        """
        What execute_transfer would do with the same arguments, and why; moves nothing.
        """

    @overload
    def explain_transfer(self, src: KvBlocks, dst: KvBlocks, options: TransferOptions | None = None) -> TransferExplanation: ...

    def prepare_transfer(self, src: LayoutHandle, dst: LayoutHandle, options: TransferOptions | None = None) -> PreparedTransfer:
        """Does everything but the block ids once."""

    def block_checksums(self, handle: LayoutHandle, block_ids: kvbm_cpp._types.BlockIds) -> list[Checksum]:
        """
        XXH3-128 of each block's logical tensor: equal tensors have equal checksums, whatever the format, kind and storage.
        """

    def layer_checksums(self, handle: LayoutHandle, block_ids: kvbm_cpp._types.BlockIds) -> list[list[Checksum]]:
        """The same per layer: [block][layer]."""

    def fill_blocks(self, handle: LayoutHandle, block_ids: kvbm_cpp._types.BlockIds, pattern: FillPattern) -> None:
        """Writes the pattern into whole blocks."""

    def sync(self, handle: LayoutHandle) -> None:
        """Makes a disk layout's written blocks survive power loss."""

    def device(self, id: int = 0) -> Device: ...

    @property
    def devices(self) -> list[Device]: ...

    def acquire_h2d_stream(self) -> Stream:
        """
        The next stream of the pool, round robin; shared with the transfers that use the pool. torch.cuda.ExternalStream(stream.cuda_stream) computes on it. It lives as long as the manager or the returned object.
        """

    def acquire_d2h_stream(self) -> Stream: ...

    def acquire_d2d_stream(self) -> Stream: ...

    @property
    def memory_pool_stats(self) -> MemoryPoolStats: ...

    @property
    def plan_cache_stats(self) -> PlanCacheStats:
        """
        How often execute_transfer and prepare_transfer found their plan ready.
        """

    @property
    def copy_threads(self) -> int: ...

    @property
    def event_system(self) -> EventSystem: ...

    def build_logical_descriptor(self, handle: LayoutHandle, tier: LogicalLayoutHandle | str) -> LogicalLayoutDescriptor:
        """
        What a peer needs to reach a layout of this worker, with the tier that it is.
        """

    def worker_address(self) -> WorkerAddress:
        """
        How the wire reaches this worker. UnsupportedError without a NIXL backend, as with all that concerns other workers.
        """

    def export_metadata(self, handles: Iterable[LayoutHandle] | None = None) -> SerializedLayout:
        """
        Everything that peers need to use these layouts; all layouts in memory by default.
        """

    @overload
    def import_metadata(self, metadata: SerializedLayout) -> int:
        """
        Meets the worker whose metadata this is and returns its id: its handles can be used like this worker's own. Its memory is mapped where both run on one machine and it shares it, else reached through NIXL. AlreadyExistsError where it was imported already, PeerLostError where it has ended.
        """

    @overload
    def import_metadata(self, metadata: bytes) -> int:
        """The same from bytes, which are not trusted."""

    def unimport_worker(self, worker_id: int) -> None:
        """
        Forgets a worker and its handles; it can be imported again. BusyError while transfers use its layouts; unknown ones are fine.
        """

    @property
    def imported_workers(self) -> list[int]:
        """Ids of the workers that are imported now."""

    @property
    def imported_handles(self) -> list[LayoutHandle]:
        """Handles of all imported layouts, ascending."""

    def how_reached(self, handle: LayoutHandle) -> str:
        """
        How an imported layout's memory is reached, in words, and why not better.
        """

    def resolve(self, worker_id: int, tier: LogicalLayoutHandle | str) -> LayoutHandle:
        """
        The layout that a worker, this one or an imported one, has in a tier; the first one if there are several. NotFoundError naming worker and tier.
        """

    def subscribe_write_notifications(self) -> WriteNotices:
        """
        Starts to receive the write notifications of peers' transfers into this worker's memory.
        """

    @property
    def remote_stats(self) -> RemoteStats:
        """Counts of what came from peers since the manager was made."""

    def statistics(self) -> ManagerStats:
        """Everything that this manager has counted since it was made."""

    def metrics_text(self) -> str:
        """
        The same as the text that Prometheus reads. UnsupportedError in a build without prometheus-cpp.
        """

    def serve_metrics(self, address: str = '127.0.0.1:9400') -> int:
        """
        Serves metrics_text() at http://ADDRESS/metrics until the manager is closed, and returns the port; port 0 takes any that is free. UnsupportedError in a build without prometheus-cpp; IoError where the address cannot be had; AlreadyExistsError where it serves already.
        """

class WritePolicy(enum.Enum):
    """When blocks go to the tiers below the first."""

    Through = 0
    """At once, in the background."""

    Back = 1
    """When they are evicted, or by flush()."""

class PrefixTier:
    """One tier of a PrefixStore: a layout that belongs to it."""

    def __init__(self, layout: LayoutHandle, *, budget_bytes: int | None = None, index: str | os.PathLike[str] | None = None) -> None:
        """
        index: on disk, the file that remembers which key lies in which block; without, nothing of the tier survives the store.
        """

    @property
    def layout(self) -> LayoutHandle: ...

    @property
    def budget_bytes(self) -> int | None: ...

class BlockKey:
    """
    Names the content of one KV block: the model and every token up to the end of the block's page. str() gives 32 hexadecimal digits. Hashable, ordered.
    """

    def __init__(self, text: str) -> None: ...

    @property
    def value(self) -> Checksum:
        """The hash."""

    def __str__(self) -> str: ...

    def __repr__(self) -> str: ...

    def __eq__(self, other: object, /) -> bool: ...

    def __lt__(self, arg: BlockKey, /) -> bool: ...

    def __le__(self, arg: BlockKey, /) -> bool: ...

    def __gt__(self, arg: BlockKey, /) -> bool: ...

    def __ge__(self, arg: BlockKey, /) -> bool: ...

    def __hash__(self) -> int: ...

def model_fingerprint(name: str, dtype: str, config: LayoutConfig) -> Checksum:
    """
    Hash of what decides the content of a model's blocks apart from the tokens: the name of model and weights (adapters included), the element type, and the shape of a block.
    """

def root_key(fingerprint: Checksum, page_size: int) -> BlockKey:
    """What the keys of a model's first blocks are chained to."""

def chain_keys(parent: BlockKey, tokens: kvbm_cpp._types.BlockIds, page_size: int) -> list[BlockKey]:
    """
    Keys of the full pages of `tokens`, chained to `parent`: root_key(), or the last key before them.
    """

class PrefixMatch:
    """How much of a prefix is stored."""

    @property
    def num_blocks(self) -> int:
        """Stored from the first one on."""

    @property
    def tiers(self) -> list[LogicalLayoutHandle]:
        """The fastest tier that has each of them."""

class OnboardResult:
    """What onboard() brought."""

    @property
    def num_blocks(self) -> int:
        """Arrived, from the first one on; what is behind is unspecified."""

    @property
    def tiers(self) -> list[LogicalLayoutHandle]:
        """Where each of them was found."""

class OffloadResult:
    """What became of offered blocks; the three add up to all of them."""

    @property
    def written(self) -> int:
        """To the first tier."""

    @property
    def already_stored(self) -> int:
        """There before, by this call or another one."""

    @property
    def failed(self) -> int:
        """Not stored: no room, a failed write."""

class PrefetchResult:
    """What prefetch() brought."""

    @property
    def num_blocks(self) -> int:
        """In memory now, from the first one on."""

class FlushResult:
    """What flush() did."""

    @property
    def written(self) -> int:
        """Blocks that no surviving tier had before."""

    @property
    def failed(self) -> int:
        """Blocks that no surviving tier has now."""

class OnboardTicket:
    """An onboard under way. Awaitable in asyncio."""

    def is_ready(self) -> bool:
        """Whether the work has ended."""

    @property
    def notification(self) -> TransferCompleteNotification:
        """For then() and aggregate(); wait() does not block once it is ready."""

    def wait(self, timeout: float | None = None) -> OnboardResult:
        """
        Blocks until the work has ended; kvbm_cpp.TimeoutError after `timeout` seconds, while it goes on. What went wrong is in the result.
        """

    def __await__(self) -> Generator[Any, None, OnboardResult]: ...

class OffloadTicket:
    """An offload under way. Awaitable in asyncio."""

    def is_ready(self) -> bool:
        """Whether the work has ended."""

    @property
    def notification(self) -> TransferCompleteNotification:
        """For then() and aggregate(); wait() does not block once it is ready."""

    def wait(self, timeout: float | None = None) -> OffloadResult:
        """
        Blocks until the work has ended; kvbm_cpp.TimeoutError after `timeout` seconds, while it goes on. What went wrong is in the result.
        """

    def __await__(self) -> Generator[Any, None, OffloadResult]: ...

class PrefetchTicket:
    """A prefetch under way. Awaitable in asyncio."""

    def is_ready(self) -> bool:
        """Whether the work has ended."""

    @property
    def notification(self) -> TransferCompleteNotification:
        """For then() and aggregate(); wait() does not block once it is ready."""

    def wait(self, timeout: float | None = None) -> PrefetchResult:
        """
        Blocks until the work has ended; kvbm_cpp.TimeoutError after `timeout` seconds, while it goes on. What went wrong is in the result.
        """

    def __await__(self) -> Generator[Any, None, PrefetchResult]: ...

class TierStats:
    """What happened in one tier."""

    @property
    def tier(self) -> LogicalLayoutHandle: ...

    @property
    def capacity_blocks(self) -> int:
        """Within the byte budget."""

    @property
    def blocks(self) -> int:
        """Held now."""

    @property
    def pinned_blocks(self) -> int:
        """Of them, that must stay."""

    @property
    def hits(self) -> int:
        """Blocks that onboard() found here."""

    @property
    def written(self) -> int:
        """Blocks that arrived."""

    @property
    def promoted(self) -> int:
        """Of them, from a slower tier."""

    @property
    def bytes_read(self) -> int: ...

    @property
    def bytes_written(self) -> int: ...

    @property
    def evicted(self) -> int:
        """Left to make room."""

    @property
    def lost(self) -> int:
        """Of them, the last copy, with more tiers below."""

    @property
    def refused(self) -> int:
        """Could not come in: all in use or pinned."""

    @property
    def read_errors(self) -> int: ...

    @property
    def corrupt(self) -> int:
        """Blocks dropped: damaged, or gone."""

    @property
    def write_errors(self) -> int: ...

    @property
    def recovered(self) -> int:
        """Found when the store was opened."""

    @property
    def damaged_index(self) -> int:
        """Records and headers of the slot index that were refused."""

class PrefixStats:
    """What happened since a PrefixStore was made."""

    @property
    def tiers(self) -> list[TierStats]:
        """Fastest first."""

    @property
    def lookups(self) -> int:
        """Calls."""

    @property
    def onboarded(self) -> int:
        """Blocks that arrived at the engine."""

    @property
    def missed(self) -> int:
        """Blocks asked for that did not."""

    @property
    def offloaded(self) -> int:
        """Blocks taken from the engine."""

    @property
    def already_stored(self) -> int:
        """Blocks offered that were there, or on their way."""

    @property
    def shared_reads(self) -> int:
        """Blocks that waited for somebody else's read."""

    @property
    def queued_writes(self) -> int:
        """Blocks on their way down now."""

    @property
    def background_errors(self) -> int:
        """In keeping records of keys; the log names them."""

class PrefixPin:
    """Keeps keys from being evicted or erased. A context manager."""

    @property
    def keys(self) -> list[BlockKey]:
        """The keys that were stored when they were pinned."""

    def release(self) -> None:
        """Lets go now. Harmless on an empty one."""

    def __enter__(self) -> PrefixPin: ...

    def __exit__(self, *args: object) -> None: ...

class PrefixStore:
    """
    Keeps KV blocks by content over several tiers, so that a prompt that begins like an earlier one need not be prefilled again. A tier is a registered layout that the store owns from now on; the engine's blocks are source and destination, in any layout and format. New blocks enter the first tier and go down by the write policy; each tier evicts what was used least recently. Tiers on disk with an index, and in object stores, keep their keys over restarts and crashes. All methods may be called from any thread. A context manager: at its end it finishes what was asked for; blocks that only memory has are gone then, call flush() first.
    """

    def __init__(self, manager: TransferManager, fingerprint: Checksum, tiers: Iterable[PrefixTier | LayoutHandle], *, write_policy: WritePolicy = ..., promote: bool = True, readers: int = 2, batch_blocks: int = 64) -> None: ...

    def close(self) -> None:
        """Ends it. Harmless on a closed one."""

    def __enter__(self) -> PrefixStore: ...

    def __exit__(self, *args: object) -> None: ...

    @property
    def page_size(self) -> int: ...

    @property
    def root(self) -> BlockKey: ...

    def keys(self, tokens: kvbm_cpp._types.BlockIds) -> list[BlockKey]:
        """Keys of the full pages of a prompt."""

    def lookup(self, keys: Iterable[BlockKey]) -> PrefixMatch:
        """How many of the first keys are stored. Reads nothing."""

    def __contains__(self, key: BlockKey) -> bool: ...

    def discover(self, keys: Iterable[BlockKey]) -> int:
        """
        Asks tiers that other processes write too for keys that this store does not know; returns how many were new.
        """

    def onboard(self, keys: Iterable[BlockKey], dst: LayoutHandle, dst_blocks: kvbm_cpp._types.BlockIds) -> OnboardTicket:
        """
        Copies the longest stored prefix of `keys` to the engine's blocks, keys[i] into dst_blocks[i].
        """

    def offload(self, keys: Iterable[BlockKey], src: LayoutHandle, src_blocks: kvbm_cpp._types.BlockIds) -> OffloadTicket:
        """
        Stores the engine's blocks, src_blocks[i] under keys[i]. They must stay as they are until the ticket is ready.
        """

    def prefetch(self, keys: Iterable[BlockKey]) -> PrefetchTicket:
        """Brings the longest stored prefix of `keys` into memory."""

    def pin(self, keys: Iterable[BlockKey]) -> PrefixPin:
        """Keeps those of the keys that are stored until the pin goes."""

    def erase(self, keys: Iterable[BlockKey]) -> int:
        """Forgets keys in all tiers; pinned ones stay. Returns how many."""

    def flush(self) -> FlushResult:
        """
        Writes every block that no surviving tier has to the first surviving tier, and makes those tiers survive the loss of power. Waits.
        """

    def stats(self) -> PrefixStats: ...
