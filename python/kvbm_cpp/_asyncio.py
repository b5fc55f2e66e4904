# SPDX-License-Identifier: Apache-2.0
"""How a notification is awaited in asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from typing import Any

from kvbm_cpp._errors import Error
from kvbm_cpp._kvbm_cpp import TransferCompleteNotification


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
