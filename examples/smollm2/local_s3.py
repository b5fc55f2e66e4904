# SPDX-License-Identifier: Apache-2.0
"""A real S3 server on this machine: moto, in a process of its own on loopback."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from types import TracebackType

#: What moto takes for a long time to start on a busy machine.
START_SECONDS = 120.0
ATTEMPTS = 3

# A proxy of the environment is for what is outside.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def why_missing() -> str:
    """Why there can be no server here; empty: there can."""
    for module in ("moto", "flask", "flask_cors"):
        if importlib.util.find_spec(module) is None:
            return (
                f"{module} is not installed: "
                "pip install -r python/requirements-object.txt in the same environment"
            )
    return ""


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class LocalS3:
    """A context manager; the server is there once it answers, and gone with the block.

    It takes any credentials, and keeps what it stores in its memory.
    """

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (open until stop())
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = ""
        self._start()

    def _start(self) -> None:
        port = _free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        if setpriv := shutil.which("setpriv"):
            # It must not outlive a process that is killed.
            command = [setpriv, "--pdeathsig", "KILL", *command]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT
        )

    def _answers(self) -> bool:
        try:
            self.ask("GET", "/moto-api/data.json")
        except OSError:
            return False
        return True

    def wait(self) -> LocalS3:
        """Returns when it answers."""
        give_up = time.monotonic() + START_SECONDS
        attempts = 1
        while not self._answers():
            assert self._process is not None
            if self._process.poll() is not None and attempts < ATTEMPTS:
                # Between finding a free port and its use somebody else may have taken it.
                attempts += 1
                self._start()
            elif self._process.poll() is not None or time.monotonic() > give_up:
                self._log.seek(0)
                text = self._log.read().decode(errors="replace")
                self.stop()
                raise OSError(f"moto's S3 server does not start: {text[-2000:]}")
            time.sleep(0.05)
        return self

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One request without a signature; OSError where it fails."""
        request = urllib.request.Request(self.endpoint + path, body, method=method)
        request.add_header("Content-Type", "text/plain")
        with _OPENER.open(request, timeout=30) as answer:
            return bytes(answer.read())

    def make_bucket(self, name: str) -> str:
        """Makes a bucket and returns its name."""
        self.ask("PUT", f"/{name}")
        return name

    def stop(self) -> None:
        """Ends it now. Harmless on a stopped one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self._log.close()

    def __enter__(self) -> LocalS3:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
