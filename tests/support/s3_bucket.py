"""An empty S3 bucket on the loopback, for tests that need an object store."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer

from fossilray.core.config import StoreConfig

KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_run(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> tuple[str, StoreConfig]:
    """An address below a new bucket, and how it is reached."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    bucket = f"archive-{secrets.token_hex(4)}"
    boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/census/run", StoreConfig(endpoint_url=s3_endpoint, region="us-east-1")
