# SPDX-License-Identifier: Apache-2.0
"""An S3 server for the tests of this folder: moto, where it is installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from program import ROOT

# What no test may ask for: the metadata service of a cloud, and the caller's own account.
NOWHERE = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/nonexistent",
           "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}  # fmt: skip
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "the-secret-itself"}


def moto_program() -> str | None:
    """moto_server, or nothing."""
    named = os.environ.get("KVBM_MOTO_SERVER")
    if named:
        return named
    local = ROOT / "build/venv/bin/moto_server"
    return str(local) if local.exists() else shutil.which("moto_server")


needs_moto = pytest.mark.skipif(
    moto_program() is None,
    reason="moto_server is not there: pip install -r python/requirements-object.txt",
)


def closed_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, server: subprocess.Popen) -> None:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and server.poll() is None:
        with contextlib.closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError("moto_server does not start")


def serve(folder: Path, bucket: str) -> Iterator[str]:
    """The endpoint of a server with one bucket."""
    port = closed_port()
    with (folder / "moto.log").open("w") as log:
        server = subprocess.Popen(
            [str(moto_program()), "-H", "127.0.0.1", "-p", str(port)], stdout=log, stderr=log
        )
        try:
            wait_for(port, server)
            endpoint = f"http://127.0.0.1:{port}"
            request = urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")
            request.add_header(
                "Authorization", "AWS4-HMAC-SHA256 Credential=testing/0/us-east-1/s3"
            )
            urllib.request.urlopen(request, timeout=30).close()
            yield endpoint
        finally:
            server.kill()
            server.wait()
