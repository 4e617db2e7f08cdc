"""The main job from bucket to bucket on both servers, with a store that fails on the way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.end_to_end.command_line import environment, ncbatch, running, wait_for
from tests.end_to_end.conftest import Head
from tests.end_to_end.images import save_images
from tests.end_to_end.runs import assert_verified, count, output_store, rows
from tests.fault_proxy import FaultProxy
from tests.servers import S3Server

pytestmark = [pytest.mark.ray, pytest.mark.s3]


@dataclass(frozen=True)
class Bucket:
    """A bucket with images below `raw/`, and the server behind a proxy."""

    server: S3Server
    proxy: FaultProxy
    name: str
    keys: list[str]

    @property
    def env(self) -> dict[str, str]:
        return environment(**self.server.environment())

    def encode(self, *words: str, head: Head) -> tuple[str, ...]:
        """The words of the command; its workers go through the proxy, too."""
        places = (f"s3://{self.name}/raw/", f"s3://{self.name}/out/")
        return (
            *("encode", *places, "--workers", "2", "--endpoint-url", self.proxy.endpoint_url),
            *("--ray-address", head.address, *words),
        )


@pytest.fixture
def bucket(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    s3_server.use(monkeypatch)
    name = s3_server.make_bucket()
    keys = save_images(tmp_path / "in", 8)
    for key in keys:
        data = (tmp_path / "in" / key).read_bytes()
        s3_server.client().put_object(Bucket=name, Key=f"raw/{key}", Body=data)
    with FaultProxy(s3_server.endpoint_url) as proxy:
        yield Bucket(s3_server, proxy, name, keys)


def test_a_store_that_fails_on_the_way_loses_nothing(bucket: Bucket, head: Head) -> None:
    """Throttled for a while, silent after having stored a commit, "somebody was first" where nobody was."""
    out = output_store(f"s3://{bucket.name}/out/")
    bucket.proxy.fail("GET", key="003.png", status=503, times=3)
    bucket.proxy.drop_answer("PUT", key=".parquet", times=2)
    bucket.proxy.fail("PUT", key=".ncb", status=412, times=1)
    with running(*bucket.encode("--method", "amortized", head=head), env=bucket.env) as run:
        wait_for(lambda: bucket.proxy.count("PUT", "run.json"), "the run is planned")
        bucket.proxy.fail(status=503, seconds=3)
        done = run.wait().expect(0)
    assert "8 images ok" in done.out
    found = rows(out)
    assert set(found) == set(bucket.keys) and {row["status"] for row in found.values()} == {"ok"}
    assert_verified(out)
    assert bucket.proxy.count("GET", "raw/003.png") > 3
    (model,) = [info.key for info in out.list("models/")]
    assert bucket.proxy.count("GET", model) == 1, "by the driver, for all workers"
    _assert_no_secret(bucket, done.out + done.err)


def _assert_no_secret(bucket: Bucket, output: str) -> None:
    """Neither the credentials nor their names are in anything that was said or written."""
    client = bucket.server.client()
    written = [output.encode()]
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name, Prefix="out/"):
        for entry in page.get("Contents", []):
            written.append(entry["Key"].encode())
            if not entry["Key"].endswith(".safetensors"):
                written.append(client.get_object(Bucket=bucket.name, Key=entry["Key"])["Body"].read())
    assert {b"out/run.json", b"out/status.json"} <= set(written)
    for secret in (bucket.server.access_key, bucket.server.secret_key, "AWS_SECRET", "secret_access_key"):
        assert not any(secret.encode() in text for text in written), secret


@pytest.mark.slow
@pytest.mark.parametrize("s3_server", ["rclone"], indirect=True)  # the outage is the proxy's: once will do
def test_an_outage_of_200_seconds_costs_its_time_and_nothing_else(bucket: Bucket, head: Head) -> None:
    """Workers wait, are not taken for hung, and write what they have done: no unit is done twice."""
    out = output_store(f"s3://{bucket.name}/out/")
    words = bucket.encode("--steps", "100", "--min-deadline", "60", "--unit-seconds", "1", head=head)
    with running(*words, env=bucket.env) as run:
        wait_for(lambda: bucket.proxy.count("PUT", ".ncb"), "workers are in their units")
        bucket.proxy.fail(status=503, seconds=200)
        done = run.wait(600).expect(0)
    assert "8 images ok" in done.out
    assert "lost a worker" not in done.err and "no sign of life" not in done.err
    assert done.err.count("the run's status cannot be written") == 1
    assert done.err.count("the run's status is written again") == 1
    found = rows(out)
    assert set(found) == set(bucket.keys) and {row["status"] for row in found.values()} == {"ok"}
    attempts = {row["attempt"] for row in found.values()}
    units = {row["unit"] for row in found.values()}
    assert {attempt.rpartition("-")[2] for attempt in attempts} == {str(n + 1) for n in range(len(units))}, (
        "each unit was called once"
    )
    assert not any(row["adopted"] for row in found.values())
    assert_verified(out)


@pytest.mark.slow
def test_two_drivers_at_once(bucket: Bucket, head: Head) -> None:
    """The second is refused while the first lives; with --force both work and nothing is counted twice."""
    out = output_store(f"s3://{bucket.name}/out/")
    command = bucket.encode("--steps", "250", head=head)
    with running(*command, env=bucket.env) as first:
        wait_for(lambda: out.head("lease.json"), "the first holds the lease")
        refused = ncbatch(*command, env=bucket.env).expect(1)
        assert "is being worked on by another driver" in refused.err.splitlines()[-1]
        assert "--force" in refused.err.splitlines()[-1]
        assert first.process.poll() is None
        with running(*command, "--force", env=bucket.env) as second:
            ends = first.wait(), second.wait()
    assert ends[1].code == 0, str(ends[1])
    assert ends[0].code in (0, 3), str(ends[0])
    if ends[0].code:
        assert "another driver has taken over the run with --force" in ends[0].err
    found = rows(out)
    assert set(found) == set(bucket.keys) and {row["status"] for row in found.values()} == {"ok"}
    assert_verified(out)
    assert count(out, "lease.json") == 0
    told = json.loads(ncbatch("status", out.uri, "--json", env=bucket.env).expect(0).out)
    assert (told["ok"], told["pending"]) == (8, 0)


def test_missing_buckets_and_wrong_credentials(
    rclone_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rclone_server.use(monkeypatch)
    env = environment(**rclone_server.environment())
    save_images(tmp_path / "in", 1)
    missing = ncbatch("encode", tmp_path / "in", "s3://no-such-bucket-here/out", env=env).expect(1)
    assert "no-such-bucket-here" in missing.message and "does not exist" in missing.message
    name = rclone_server.make_bucket()
    secret = "0123456789abcdef-not-the-secret"
    env["AWS_SECRET_ACCESS_KEY"] = secret
    denied = ncbatch("encode", f"s3://{name}/raw/", f"s3://{name}/out/", env=env).expect(1)
    assert "check AWS_SECRET_ACCESS_KEY" in denied.message
    assert secret not in str(denied)
    del env["AWS_SECRET_ACCESS_KEY"], env["AWS_ACCESS_KEY_ID"]
    none = ncbatch("status", f"s3://{name}/out/", env=env).expect(1)
    assert "credentials" in none.message.lower()


def test_storage_options_and_shards_reach_the_workers(
    moto_server: S3Server, head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker writes has the storage class and the encryption that the command was given."""
    moto_server.use(monkeypatch)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    name, client = moto_server.make_bucket(), moto_server.client()
    for key in save_images(tmp_path / "in", 3):
        client.put_object(Bucket=name, Key=f"raw/{key}", Body=(tmp_path / "in" / key).read_bytes())
    given = (f"endpoint={moto_server.endpoint_url}", f"{name}:storage-class=STANDARD_IA", "sse=AES256")
    options = [word for option in given for word in ("--storage-option", option)]
    env = environment(**moto_server.environment())
    del env["AWS_ENDPOINT_URL"]
    words = ("encode", f"s3://{name}/raw", f"s3://{name}/out", "--method", "jpeg", "--quality", "50")
    how = ("--shard-prefix", "1", "--workers", "1", "--ray-address", head.address)
    done = ncbatch(*words, *how, *options, env=env).expect(0)
    assert "3 images ok" in done.out and options[1] in done.out, (
        "the command it prints reaches the store, too"
    )
    written = {
        entry["Key"].removeprefix("out/"): client.head_object(Bucket=name, Key=entry["Key"])
        for entry in client.list_objects_v2(Bucket=name, Prefix="out/")["Contents"]
    }
    assert {info["ServerSideEncryption"] for info in written.values()} == {"AES256"}
    payload = {key for key, info in written.items() if info.get("StorageClass") == "STANDARD_IA"}
    assert len(payload) == 3 and payload == {key for key in written if key.startswith("bitstreams/")}
    assert all(re.fullmatch(r"bitstreams/[0-9a-f]/jpeg-50/00\d\.png\.jpg", key) for key in payload)
    told = ncbatch("decode", f"s3://{name}/out", tmp_path / "decoded", "--json", *options, env=env).expect(0)
    assert json.loads(told.out)["decoded"] == 3
