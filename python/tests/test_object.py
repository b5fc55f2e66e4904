# SPDX-License-Identifier: Apache-2.0
"""Object layouts against moto's S3 server: transfers, content keys, prefix tiers, faults."""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import (
    NHD,
    TOKENS,
    UNIVERSAL_TP,
    config,
    contiguous,
    engine_layout,
    random_cache,
    universal_tp_of,
)

import kvbm_cpp as kvbm
from local_s3 import LocalS3, why_missing

SECRET = "hush-not-a-word-of-this-to-anybody"
TOKEN = "token-that-nobody-is-to-see"
NOBODY = kvbm.Credentials("AKIATESTTESTTESTTEST", SECRET, TOKEN)
MODEL = kvbm.model_fingerprint("test/model", "uint16", config())


@pytest.fixture(scope="session")
def server() -> Iterator[LocalS3]:
    if missing := why_missing():
        if "KVBM_REQUIRE_MOTO" in os.environ:
            pytest.fail(missing)
        pytest.skip(missing)
    with LocalS3() as started:
        yield started.wait()


@pytest.fixture
def bucket(server: LocalS3) -> str:
    """A bucket of the test's own."""
    return server.make_bucket(f"bucket-{uuid.uuid4().hex}")


def client(server: LocalS3, service: str = "s3") -> Any:
    """AWS's own client, for what is not kvbm's."""
    boto3 = pytest.importorskip("boto3")
    from botocore.config import Config

    return boto3.client(
        service,
        endpoint_url=server.endpoint,
        region_name="us-east-1",
        aws_access_key_id="setup",
        aws_secret_access_key="setup",
        config=Config(proxies={}),
    )


def objects(
    manager: kvbm.TransferManager,
    server: LocalS3,
    bucket: str,
    format: kvbm.KvBlockLayout = UNIVERSAL_TP,
    num_blocks: int = 6,
    **options: Any,
) -> kvbm.PhysicalLayout:
    given = {"endpoint": server.endpoint, "credentials": NOBODY, "deadline": 20.0, **options}
    return contiguous(
        manager,
        config(num_blocks),
        format,
        lambda builder: builder.allocate_object(bucket, "tests", **given),
    )


def store_of(layout: kvbm.PhysicalLayout) -> kvbm.ObjectStore:
    store = layout.object_store()
    assert store is not None
    return store


def assert_silent(*texts: object) -> None:
    """None of them tells a secret."""
    for text in texts:
        assert SECRET not in str(text)
        assert TOKEN not in str(text)


@pytest.mark.parametrize("blocks_per_object", [0, 4])
def test_a_cache_goes_to_the_bucket_and_back_in_another_format(
    manager: kvbm.TransferManager, server: LocalS3, bucket: str, blocks_per_object: int
) -> None:
    tensors = random_cache()
    expected = [tensor.copy() for tensor in tensors]
    engine = manager.register_layout(engine_layout(manager, tensors))
    far = objects(manager, server, bucket, blocks_per_object=blocks_per_object)
    assert far.storage_kind == kvbm.StorageKind.Object
    by_default = min(32, (256 << 10) // store_of(far).block_bytes)  # small blocks share objects
    assert store_of(far).blocks_per_object == (blocks_per_object or by_default)
    g4 = manager.register_layout(far)
    manager.execute_transfer(engine, range(6), g4, [5, 4, 3, 2, 1, 0]).wait(60)
    sums = manager.block_checksums(engine, range(6))
    assert manager.block_checksums(g4, [5, 4, 3, 2, 1, 0]) == sums

    # Out of the bucket into another format, and at last into the engine's own.
    hnd = kvbm.KvBlockLayout.OperationalHND
    host = manager.register_layout(contiguous(manager, config(), hnd))
    manager.execute_transfer(g4, [5, 0], host, [1, 2]).wait(60)
    assert manager.block_checksums(host, [1, 2]) == [sums[0], sums[5]]
    for tensor in tensors:
        tensor[...] = 0
    manager.execute_transfer(g4, [5, 4, 3, 2, 1, 0], engine, range(6)).wait(60)
    for tensor, wanted in zip(tensors, expected, strict=True):
        np.testing.assert_array_equal(tensor, wanted)
    stats = store_of(far).stats()
    assert stats.succeeded > 0
    assert stats.retries == 0
    assert set(stats.attempt_errors) == {"NoSuchKey"}  # of the manifest, which was not there yet


def test_auto_says_what_it_took(
    manager: kvbm.TransferManager, server: LocalS3, bucket: str
) -> None:
    store = store_of(objects(manager, server, bucket, transport=kvbm.ObjectTransport.Auto))
    assert store.backend_reason.startswith(("libcurl", "NIXL"))
    assert ": " in store.backend_reason


def test_nixl_moves_objects_or_is_refused_with_the_reason(
    manager: kvbm.TransferManager, server: LocalS3, bucket: str
) -> None:
    refusal = ""
    try:
        far = objects(manager, server, bucket, transport=kvbm.ObjectTransport.Nixl)
    except kvbm.UnsupportedError as error:
        refusal = str(error)
    if refusal:
        assert "ObjectTransport::Curl needs none of it" in refusal
        return
    data = bytes(range(256)) * (far.config.block_bytes // 256)
    store_of(far).put("key", data)
    assert store_of(far).get("key") == data


def test_another_manager_finds_the_blocks(server: LocalS3, bucket: str) -> None:
    tensors = random_cache()
    with kvbm.TransferManager() as first:
        engine = first.register_layout(engine_layout(first, tensors))
        g4 = first.register_layout(objects(first, server, bucket))
        first.execute_transfer(engine, [1, 2], g4, [4, 0]).wait(60)
        sums = first.block_checksums(engine, [1, 2])
    with kvbm.TransferManager() as second:
        far = objects(second, server, bucket, read_only=True)
        assert store_of(far).read_only
        g4 = second.register_layout(far)
        assert second.block_checksums(g4, [4, 0]) == sums
        host = second.register_layout(contiguous(second, config()))
        with pytest.raises(kvbm.InvalidArgumentError, match="read-only"):
            second.execute_transfer(host, [0], g4, [0]).wait(60)
        other = objects(second, server, bucket, format=NHD)
        with pytest.raises(kvbm.NotFoundError):
            store_of(other).get("x")  # another format has objects of its own
        with pytest.raises(kvbm.InvalidArgumentError, match="another prefix or model"):
            objects(second, server, bucket, blocks_per_object=2)


def test_blocks_have_content_keys(
    manager: kvbm.TransferManager, server: LocalS3, bucket: str
) -> None:
    tensors = random_cache()
    engine = manager.register_layout(engine_layout(manager, tensors))
    far = objects(manager, server, bucket, model="m/1", tp_size=4, tp_rank=2)
    g4 = manager.register_layout(far)
    store = store_of(far)
    assert store.url == f"{server.endpoint}/{bucket}/tests/kvbm-v1/m~2f1/UniversalTP/tp4-r2"
    assert store.url in repr(store)
    assert "libcurl" in store.backend_reason

    block = universal_tp_of(tensors, 3)
    assert store.block_bytes == block.nbytes
    store.put("three", block)
    store.put("bytes", bytes(block.nbytes))
    store.put("view", memoryview(bytearray(block.tobytes())))
    assert store.get("three") == block.tobytes() == store.get("view")
    into = np.zeros_like(block)
    store.get_into("three", into)
    np.testing.assert_array_equal(into, block)
    assert store.exists("three")
    assert not store.exists("four")
    assert store.exist(["four", "three", "bytes"]) == [False, True, True]
    size = block.nbytes
    assert store.list() == [("bytes", size), ("three", size), ("view", size)]
    assert store.list(limit=1) == [("bytes", size)]
    assert store.list(limit=0) == []

    assert store.key_of(0) is None
    assert store.object_key_of(0).endswith("/i1/0000000000")
    store.bind(0, "three")
    assert store.key_of(0) == "three"
    assert store.object_key_of(0).endswith("/b/three")
    assert manager.block_checksums(g4, [0]) == manager.block_checksums(engine, [3])
    store.bind(1, "five")
    manager.execute_transfer(engine, [5], g4, [1]).wait(60)
    assert store.get("five") == universal_tp_of(tensors, 5).tobytes()
    store.unbind(0)
    assert store.key_of(0) is None

    store.remove("three")
    store.remove("three")
    assert not store.exists("three")
    with pytest.raises(kvbm.OutOfRangeError):
        store.bind(6, "three")
    with pytest.raises(kvbm.InvalidArgumentError, match="a block has"):
        store.put("three", b"short")
    with pytest.raises(TypeError, match="data is a str"):
        store.put("three", "text")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="writable"):
        store.get_into("five", bytes(size))
    with pytest.raises(TypeError, match="C-contiguous"):
        store.put("three", np.asfortranarray(block))


def test_the_example_of_the_readme_runs(server: LocalS3) -> None:
    readme = Path(__file__).resolve().parents[1] / "README.md"
    if not readme.is_file():
        pytest.skip("python/README.md is in the repository only")
    example = readme.read_text().split("```python\n")[3].split("```")[0]
    server.make_bucket("kv-cache")
    exec(example.replace("http://127.0.0.1:9000", server.endpoint), {})


def test_memory_and_files_have_no_objects(manager: kvbm.TransferManager) -> None:
    assert contiguous(manager, config()).object_store() is None
    disk = contiguous(manager, config(), place=lambda builder: builder.allocate_disk())
    assert disk.object_store() is None


def test_a_new_prefix_store_finds_what_objects_have(
    manager: kvbm.TransferManager, server: LocalS3, bucket: str
) -> None:
    tensors = random_cache(num_blocks=6)
    expected = [tensor.copy() for tensor in tensors]
    engine = manager.register_layout(engine_layout(manager, tensors))

    def tiers(used: kvbm.TransferManager) -> list[kvbm.LayoutHandle]:
        pinned = contiguous(used, config(8), place=lambda builder: builder.allocate_pinned())
        far = objects(used, server, bucket, num_blocks=16)
        return [used.register_layout(pinned), used.register_layout(far)]

    with kvbm.PrefixStore(manager, MODEL, tiers(manager)) as store:
        keys = store.keys(range(6 * TOKENS))
        assert store.offload(keys, engine, range(6)).wait(60).written == 6
        assert store.flush().failed == 0
    names = [name for name, _ in store_of(objects(manager, server, bucket)).list()]
    assert names == sorted(str(key) for key in keys)

    for tensor in tensors:
        tensor[...] = 0
    with kvbm.PrefixStore(manager, MODEL, tiers(manager)) as store:
        assert store.stats().tiers[1].recovered == 6
        brought = store.onboard(keys, engine, range(6)).wait(60)
        assert brought.num_blocks == 6
        assert set(brought.tiers) == {kvbm.LogicalLayoutHandle.G4}
    for tensor, wanted in zip(tensors, expected, strict=True):
        np.testing.assert_array_equal(tensor, wanted)


def test_a_missing_bucket_is_said_at_once(manager: kvbm.TransferManager, server: LocalS3) -> None:
    with pytest.raises(kvbm.NotFoundError, match="nowhere") as caught:
        objects(manager, server, "nowhere")
    assert caught.value.kind == "NoSuchBucket"
    assert caught.value.http_status == 404
    assert caught.value.attempts == 1
    assert_silent(caught.value, repr(caught.value))


def test_a_missing_key_is_said(manager: kvbm.TransferManager, server: LocalS3, bucket: str) -> None:
    far = objects(manager, server, bucket)
    store = store_of(far)
    with pytest.raises(kvbm.NotFoundError, match="nothing") as caught:
        store.get("nothing")
    assert (caught.value.kind, caught.value.http_status) == ("NoSuchKey", 404)
    buffer = bytearray(b"x" * store.block_bytes)
    with pytest.raises(kvbm.NotFoundError):
        store.get_into("nothing", buffer)
    assert buffer == bytes(store.block_bytes)

    host = manager.register_layout(contiguous(manager, config()))
    done = manager.execute_transfer(manager.register_layout(far), [1, 2], host, [0, 1])
    with pytest.raises(kvbm.NotFoundError, match=r"block 1 was never written") as several:
        done.wait(60)
    assert several.value.kind == "NoSuchKey"
    assert [failed.position for failed in done.failed_blocks()] == [0, 1]
    for failed in done.failed_blocks():
        assert failed.error.kind == "NoSuchKey"
        assert_silent(failed.error)
    error = done.error()
    assert error is not None
    assert error.kind == "NoSuchKey"


def test_what_others_did_to_an_object_is_found(
    manager: kvbm.TransferManager, server: LocalS3, bucket: str
) -> None:
    tensors = random_cache()
    engine = manager.register_layout(engine_layout(manager, tensors))
    far = objects(manager, server, bucket)
    g4 = manager.register_layout(far)
    manager.execute_transfer(engine, range(6), g4, range(6)).wait(60)
    sums = manager.block_checksums(g4, range(6))
    store = store_of(far)
    s3 = client(server)

    def overwrite(block: int, change: Any, keep_metadata: bool = True) -> None:
        key = store.object_key_of(block)
        found = s3.get_object(Bucket=bucket, Key=key)
        body = bytearray(found["Body"].read())
        metadata = found["Metadata"] if keep_metadata else {}
        s3.put_object(Bucket=bucket, Key=key, Body=change(body), Metadata=metadata)

    def flip(body: bytearray) -> bytes:
        body[77] ^= 4
        return bytes(body)

    overwrite(1, flip)
    overwrite(2, bytes, keep_metadata=False)
    overwrite(3, lambda body: bytes(body[:-1]))
    host = manager.register_layout(contiguous(manager, config()))
    done = manager.execute_transfer(g4, range(6), host, range(6))
    with pytest.raises(kvbm.CorruptError, match="3 of 6 blocks"):
        done.wait(60)
    kinds = {failed.position: failed.error.kind for failed in done.failed_blocks()}
    assert kinds == {1: None, 2: None, 3: "WrongSize"}
    assert all(isinstance(failed.error, kvbm.CorruptError) for failed in done.failed_blocks())
    assert manager.block_checksums(host, [0, 4, 5]) == [sums[0], sums[4], sums[5]]

    # A scrubber finds the same ones without anybody who asks for them.
    damaged: list[kvbm.DamagedExtent] = []
    with kvbm.Scrubber(far, bytes_per_second=0, max_passes=1, on_damage=damaged.append) as scrubber:
        assert scrubber.wait_for_passes(1)
        counters = scrubber.counters()
    assert sorted(damage.extent for damage in damaged) == [1, 2, 3]
    assert all(isinstance(damage.error, kvbm.CorruptError) for damage in damaged)
    assert (counters.passes, counters.damaged) == (1, 3)
    assert damaged[0].store == store.url


def test_wrong_credentials_are_refused(manager: kvbm.TransferManager) -> None:
    if missing := why_missing():
        pytest.skip(missing)
    # Its own server: it asks everybody for a valid signature from some time on.
    with LocalS3() as strict:
        strict.wait().make_bucket("blocks")
        iam = client(strict, "iam")
        iam.create_user(UserName="me")
        policy = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
        }
        iam.put_user_policy(UserName="me", PolicyName="all", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="me")["AccessKey"]
        strict.ask("POST", "/moto-api/reset-auth", b"0")

        good = kvbm.Credentials(key["AccessKeyId"], key["SecretAccessKey"])
        store = store_of(objects(manager, strict, "blocks", credentials=good))
        block = bytes(range(256)) * (store.block_bytes // 256)
        store.put("block", block)
        assert store.get("block") == block

        for wrong in (kvbm.Credentials(key["AccessKeyId"], SECRET), NOBODY):
            with pytest.raises(kvbm.IoError) as caught:
                objects(manager, strict, "blocks", credentials=wrong)
            assert caught.value.kind == "AccessDenied"
            assert caught.value.http_status == 403
            assert isinstance(caught.value, OSError)
            assert_silent(caught.value, repr(caught.value), repr(wrong))


def test_an_endpoint_that_goes_away_is_said(manager: kvbm.TransferManager) -> None:
    if missing := why_missing():
        pytest.skip(missing)
    with LocalS3() as short_lived:
        short_lived.wait().make_bucket("blocks")
        far = objects(manager, short_lived, "blocks", max_retries=1, deadline=5.0)
    store = store_of(far)
    with pytest.raises(kvbm.IoError) as caught:
        store.put("key", bytes(store.block_bytes))
    assert caught.value.kind == "Unreachable"
    assert (caught.value.http_status, caught.value.attempts) == (0, 2)
    assert caught.value.native_code == errno.ECONNREFUSED
    host = manager.register_layout(contiguous(manager, config()))
    done = manager.execute_transfer(host, [0], manager.register_layout(far), [0])
    with pytest.raises(kvbm.IoError) as caught:
        done.wait(60)
    assert caught.value.kind == "Unreachable"
    assert store.stats().attempt_errors["Unreachable"] >= 4
    # A new layout fails at once, without another attempt.
    with pytest.raises(kvbm.IoError) as caught:
        objects(manager, short_lived, "blocks")
    assert (caught.value.kind, caught.value.attempts) == ("Unreachable", 1)
    assert_silent(caught.value)


def test_the_environment_says_where_and_who(
    manager: kvbm.TransferManager,
    server: LocalS3,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.endpoint)
    monkeypatch.setenv("AWS_REGION", "eu-north-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENVIRONMENT")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    far = contiguous(manager, config(), place=lambda builder: builder.allocate_object(bucket))
    assert store_of(far).url.startswith(f"{server.endpoint}/{bucket}/kvbm-v1/shape-")
    found = kvbm.Credentials.from_chain()
    assert found.source == "the environment"
    assert found.access_key_id == "AKIAENVIRONMENT"
    assert repr(found) == "Credentials(AKI...ENT from the environment)"


def test_nobody_without_credentials(
    manager: kvbm.TransferManager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(kvbm.NotFoundError, match="AWS_ACCESS_KEY_ID"):
        contiguous(manager, config(), place=lambda builder: builder.allocate_object("bucket"))


def test_secrets_are_not_shown() -> None:
    assert repr(NOBODY) == "Credentials(AKIA...TEST with a session token from the caller)"
    assert not hasattr(NOBODY, "secret_access_key")
    assert_silent(NOBODY, repr(NOBODY), NOBODY.source)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"nonsense": 1}, TypeError, "takes no 'nonsense'"),
        ({"endpoint": 5}, TypeError, "endpoint is a int"),
        ({"credentials": "me:hush"}, TypeError, "credentials is a str"),
        ({"tp_size": 2, "tp_rank": 2}, kvbm.InvalidArgumentError, "tp_rank"),
        ({"blocks_per_object": 33}, kvbm.InvalidArgumentError, "blocks_per_object is 33"),
        ({"connections": 0}, kvbm.InvalidArgumentError, "connections is 0"),
        ({"deadline": 0.0}, kvbm.InvalidArgumentError, "deadline is 0"),
        ({"deadline": float("nan")}, kvbm.InvalidArgumentError, "deadline is not a number"),
        ({"max_retries": -1}, kvbm.InvalidArgumentError, "max_retries is -1"),
        ({"endpoint": "ftp://here"}, kvbm.InvalidArgumentError, "neither http"),
        ({"endpoint": "http://me:hush@here"}, kvbm.InvalidArgumentError, "a user in it"),
        ({"region": ""}, kvbm.InvalidArgumentError, "region"),
    ],
    ids=str,
)
def test_bad_options_are_refused(
    manager: kvbm.TransferManager, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"endpoint": "http://127.0.0.1:9", "credentials": NOBODY, **options}
    with pytest.raises(error, match=message) as caught:
        contiguous(
            manager, config(), place=lambda builder: builder.allocate_object("bucket", **given)
        )
    assert "hush" not in str(caught.value)


def test_objects_hold_whole_blocks(manager: kvbm.TransferManager) -> None:
    builder = manager.layout_builder().config(config()).layer_separate(kvbm.BlockDimension.First)
    with pytest.raises(kvbm.InvalidArgumentError, match="whole block"):
        builder.allocate_object("bucket", credentials=NOBODY).build()
