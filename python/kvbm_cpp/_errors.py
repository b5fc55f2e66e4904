# SPDX-License-Identifier: Apache-2.0
"""The exceptions of kvbm_cpp: one class a code, each also the builtin that callers expect."""

from __future__ import annotations

import builtins

from kvbm_cpp._kvbm_cpp import ErrorCode


class Error(Exception):
    """Base of everything that kvbm raises."""

    #: What kind of failure happened.
    code: ErrorCode = ErrorCode.Internal
    #: errno or the device runtime's own code; 0 where there is none.
    native_code: int = 0
    #: Whether the same call may succeed later without a change by the caller.
    retryable: bool = False
    #: What an object store said: "NoSuchKey", "NoSuchBucket", "AccessDenied", "Unreachable",
    #: "Silent", "Interrupted", "Truncated", "WrongSize", "Throttled", "Server", "Refused" or
    #: "Cancelled"; None where the error came from elsewhere.
    kind: str | None = None
    #: Of that answer; 0: there was none.
    http_status: int = 0
    #: Sent until the request was given up; 0 where the error came from elsewhere.
    attempts: int = 0


class InvalidArgumentError(Error, ValueError):
    """A value that can never be right (page size 3, inner_dim not divisible by num_heads)."""

    code = ErrorCode.InvalidArgument


class OutOfRangeError(Error, IndexError):
    """An index or range beyond what the object has (block 71 of 64)."""

    code = ErrorCode.OutOfRange


class SizeOverflowError(Error, OverflowError):
    """A size or address computation left the 64-bit range."""

    code = ErrorCode.Overflow


class UnsupportedError(Error, NotImplementedError):
    """A correct request that this build, machine or strategy cannot serve."""

    code = ErrorCode.Unsupported


class NotFoundError(Error, LookupError):
    """A handle, file or device that does not exist (any more)."""

    code = ErrorCode.NotFound


class AlreadyExistsError(Error, FileExistsError):
    """A name, file or registration that is taken."""

    code = ErrorCode.AlreadyExists


class BusyError(Error, RuntimeError):
    """The object is in use and the call would pull it away."""

    code = ErrorCode.Busy


class CorruptError(Error, RuntimeError):
    """Stored or received bytes fail their checksum or structure."""

    code = ErrorCode.Corrupt


class VersionMismatchError(Error, RuntimeError):
    """Written by a version that this one does not read."""

    code = ErrorCode.VersionMismatch


class OutOfMemoryError(Error, MemoryError):
    """An allocation or a pool limit was exceeded."""

    code = ErrorCode.OutOfMemory


class IoError(Error, OSError):
    """The operating system refused an I/O operation; errno is native_code."""

    code = ErrorCode.Io


class DeviceError(Error, RuntimeError):
    """A device runtime reported an error; its own code is native_code."""

    code = ErrorCode.Device


class TimeoutError(Error, builtins.TimeoutError):
    """The deadline passed before the work ended."""

    code = ErrorCode.Timeout


class CancelledError(Error, RuntimeError):
    """The caller asked to stop."""

    code = ErrorCode.Cancelled


class ShuttingDownError(Error, RuntimeError):
    """The owner is closed or being destroyed."""

    code = ErrorCode.ShuttingDown


class PeerLostError(Error, ConnectionError):
    """A remote worker died, was stopped, or disconnected; it may come back."""

    code = ErrorCode.PeerLost


class InternalError(Error, RuntimeError):
    """A broken invariant of kvbm itself."""

    code = ErrorCode.Internal


_CLASSES: dict[ErrorCode, type[Error]] = {cls.code: cls for cls in Error.__subclasses__()}


def make_error(code: ErrorCode, message: str, native_code: int, retryable: bool) -> Error:
    """Returns the exception for a failure of the library; called by the native part."""
    error = _CLASSES[code](message)
    error.native_code = native_code
    error.retryable = retryable
    if isinstance(error, OSError) and native_code:
        error.errno = native_code
    return error
