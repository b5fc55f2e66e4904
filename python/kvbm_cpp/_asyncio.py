# SPDX-License-Identifier: Apache-2.0
"""How notifications are awaited in asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import threading
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


class _Poll:
    """One wait in a thread; what comes after the task was cancelled goes to the next caller."""

    def __init__(self, notices: WriteNotices) -> None:
        self._notices = notices
        self._lock = threading.Lock()
        self._outcome: tuple[WriteNotification | None, bool] = (None, False)
        self._cancelled = False

    def run(self) -> None:
        outcome = self._notices.poll(_SLICE)
        with self._lock:
            self._outcome = outcome
            if self._cancelled:
                self._give_back()

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            self._give_back()

    def _give_back(self) -> None:
        notification, self._outcome = self._outcome[0], (None, False)
        if notification is not None:
            self._notices.give_back(notification)

    async def outcome(self) -> tuple[WriteNotification | None, bool]:
        try:
            await asyncio.get_running_loop().run_in_executor(None, self.run)
        except asyncio.CancelledError:
            self.cancel()
            raise
        return self._outcome


async def iterate_notices(notices: WriteNotices) -> AsyncIterator[WriteNotification]:
    """What `async for notification in notices` runs; ends when the manager is closed."""
    while True:
        notification, ended = await _Poll(notices).outcome()
        if notification is not None:
            yield notification
        elif ended:
            return
