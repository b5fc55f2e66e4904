# SPDX-License-Identifier: Apache-2.0
"""KV-cache blocks of language models, moved between memory tiers and layouts.

A `TransferManager` registers layouts (which blocks there are, in which format, in which storage)
and moves blocks between them. Errors are subclasses of `Error`; waiting releases the interpreter
lock; notifications are awaitable in asyncio.
"""

from kvbm_cpp._kvbm_cpp import version

__version__ = version()
