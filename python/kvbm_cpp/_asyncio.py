# SPDX-License-Identifier: Apache-2.0
"""How notifications are awaited in asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator
from typing import Any

from kvbm_cpp._errors import Error
from kvbm_cpp._kvbm_cpp import TransferCompleteNotification, WriteNotices, WriteNotification

#: Seconds for which one wait for a write notification occupies a thread of the loop's executor.
_SLICE = 0.1


async def _wait(notification: TransferCompleteNotification) -> None:
    if not notification.is_ready():
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def resolve() -> None:
            if not future.done():
                future.set_result(None)

        def done(_: Error | None) -> None:
            # A loop that was closed meanwhile has nobody who waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(resolve)

        notification.then(done)
        await future
    notification.wait()


def iterate(notification: TransferCompleteNotification) -> Generator[Any, None, None]:
    """What `await notification` runs: raises the error of a failed transfer.

    A task that is cancelled while it waits leaves the transfer going on.
    """
    return _wait(notification).__await__()


async def _wait_ticket(ticket: Any) -> Any:
    await _wait(ticket.notification)
    return ticket.wait()


def iterate_ticket(ticket: Any) -> Generator[Any, None, Any]:
    """What `await ticket` of a PrefixStore runs; its value is the result."""
    return _wait_ticket(ticket).__await__()


async def iterate_notices(notices: WriteNotices) -> AsyncIterator[WriteNotification]:
    """What `async for notification in notices` runs; ends when the manager is closed.

    A task that is cancelled while it waits has taken nothing.
    """
    loop = asyncio.get_running_loop()
    while True:
        notification = notices.next(0.0)
        if notification is not None:
            yield notification
            continue
        ready, ended = await loop.run_in_executor(None, notices.poll, _SLICE)
        if ended and not ready:
            return
