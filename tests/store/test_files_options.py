"""How object stores are reached, and that no credential comes out of it."""

from __future__ import annotations

import importlib.util
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.run_fixtures import a_run, commit

from fossilray.core.config import AccessConfig, StoreConfig, load_config
from fossilray.core.errors import ConfigError, StoreError
from fossilray.store import RunStore
from fossilray.store.files.faults import translate_errors
from fossilray.store.files.options import (
    create_options,
    first_sentence,
    http_status,
    is_retryable,
    remote_options,
)

SECRET = st.text(string.ascii_letters + string.digits + "/+=", min_size=12, max_size=60).filter(
    lambda text: len(set(text)) > 6
)
PASSWORD = st.text(
    string.ascii_letters + string.digits + "!$&'()*+,;=%._~:@-", min_size=8, max_size=40
).filter(lambda text: len(set(text)) > 5)
AROUND = st.sampled_from(["", "cannot connect: ", "GET ", "(", 'error="', "caused by "])
NAMES = st.sampled_from(
    [
        "aws_secret_access_key",
        "AWS_SECRET_ACCESS_KEY",
        "SecretAccessKey",
        "aws_access_key_id",
        "AWSAccessKeyId",
        "x-amz-security-token",
        "X-Amz-Security-Token",
        "aws_session_token",
        "SessionToken",
        "AccountKey",
        "account_key",
        "sas_token",
        "client_secret",
        "password",
        "refresh_token",
    ]
)


@given(AROUND, NAMES, st.sampled_from(["=", ": ", " = ", "': '", '": "']), SECRET)
def test_what_follows_the_name_of_a_secret_is_left_out(before, name, sign, secret):
    quote = sign[-1] if sign[-1] in "'\"" else ""
    opening = quote if quote else ""
    text = f"{before}{opening}{name}{sign}{secret}{quote}, status 403"
    assert secret not in first_sentence(RuntimeError(text))


@given(
    AROUND,
    st.sampled_from(["X-Amz-Signature", "X-Amz-Credential", "Signature", "sig", "GoogleAccessId-Token"]),
    SECRET,
)
def test_signed_addresses_lose_their_signature(before, name, secret):
    quoted = secret.replace("/", "%2F").replace("+", "%2B").replace("=", "%3D")
    for value in (secret, quoted):
        text = f"{before}https://bucket.s3.amazonaws.com/A17.mrxs?X-Amz-Date=20300101&{name}={value}&x=1"
        sentence = first_sentence(RuntimeError(text))
        assert value not in sentence
        assert "bucket.s3.amazonaws.com/A17.mrxs" in sentence


@given(AROUND, st.sampled_from(["http", "https", "s3", "az"]), PASSWORD)
def test_addresses_lose_their_password(before, protocol, password):
    sentence = first_sentence(ValueError(f"{before}{protocol}://reader:{password}@store.example/bucket/A17"))
    assert password not in sentence
    assert "store.example/bucket/A17" in sentence


@given(st.text(string.ascii_uppercase + string.digits, min_size=16, max_size=16), SECRET)
def test_access_keys_and_authorization_headers_are_left_out(key, secret):
    header = f"Authorization: AWS4-HMAC-SHA256 Credential=AKIA{key}/20300101/us-east-1/s3, Signature={secret}"
    for text in (header, f"'authorization': 'Bearer {secret}'", f"Bearer {secret}", f"key ASIA{key} expired"):
        sentence = first_sentence(RuntimeError(text))
        assert key not in sentence
        assert secret not in sentence


@given(st.text(max_size=200))
def test_an_error_is_always_one_line_with_words(text):
    sentence = first_sentence(RuntimeError(text))
    assert len(sentence.splitlines()) == 1
    assert sentence.strip()


@pytest.mark.parametrize(
    "text",
    [
        "No such file or directory: '/data/Wells 6407_6-5/A17.mrxs'",
        'Could not connect to the endpoint URL: "http://127.0.0.1:9000/bucket/run.json"',
        "The specified bucket does not exist",
        "Please reduce your request rate",
        "s3://archive/slides/a@2x.mrxs has 3 parts",
    ],
)
def test_what_is_no_secret_is_told_whole(text):
    assert first_sentence(OSError(text)) == text


def test_an_endpoint_with_a_password_is_refused_without_repeating_it(tmp_path):
    url = "https://reader:open-sesame@store.example"
    for model in (AccessConfig, StoreConfig):
        with pytest.raises(ValidationError, match="must not hold credentials") as caught:
            model(endpoint_url=url)
        assert "sesame" not in str(caught.value)
    for section in ("store", "slides.access"):
        with pytest.raises(
            ConfigError, match=rf"{section}.endpoint_url must not hold credentials"
        ) as told_so:
            load_config(None, [f"{section}.endpoint_url={url}"])
        assert "sesame" not in str(told_so.value)
    with pytest.raises(ConfigError, match="must begin with http:// or https://"):
        load_config(None, ["store.endpoint_url=store.example:9000"])


def test_s3_is_told_of_tries_timeouts_and_place():
    access = AccessConfig(
        endpoint_url="http://127.0.0.1:9000", region="eu-north-1", profile="archive", tries=5, timeout_s=7
    )
    options = remote_options("s3", access)
    assert options["config_kwargs"]["retries"] == {"mode": "standard", "total_max_attempts": 5}
    assert options["config_kwargs"]["connect_timeout"] == options["config_kwargs"]["read_timeout"] == 7
    assert options["config_kwargs"]["max_pool_connections"] >= 32
    assert (options["endpoint_url"], options["profile"]) == ("http://127.0.0.1:9000", "archive")
    assert options["client_kwargs"] == {"region_name": "eu-north-1"}
    assert "anon" not in options
    assert remote_options("s3", AccessConfig(anonymous=True))["anon"] is True


def test_google_and_azure_are_told_the_same_in_their_own_words():
    access = AccessConfig(endpoint_url="http://127.0.0.1:9000", anonymous=True, timeout_s=7)
    google, azure = remote_options("gs", access), remote_options("az", access)
    assert (google["endpoint_url"], google["token"], google["requests_timeout"]) == (
        access.endpoint_url,
        "anon",
        7,
    )
    assert (azure["account_host"], azure["anon"], azure["read_timeout"]) == ("127.0.0.1:9000", True, 7)
    for protocol in ("s3", "gs", "az"):
        assert create_options(protocol)["mode"] == "create"
        assert remote_options(protocol, access)["use_listings_cache"] is False


@pytest.mark.parametrize(("protocol", "package", "extra"), [("gs", "gcsfs", "gcs"), ("az", "adlfs", "azure")])
def test_a_package_that_is_not_installed_is_named(protocol, package, extra):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(StoreError, match=rf"pip install fossilray\[{extra}\]") as caught:
        RunStore.open(f"{protocol}://archive/run")
    assert "\n" not in str(caught.value)


class HttpError(Exception):
    """An error of gcsfs (code) or azure (status_code)."""

    def __init__(self, **known: int) -> None:
        super().__init__("answered")
        vars(self).update(known)


@pytest.mark.parametrize("known", [{"code": 503}, {"status_code": 503}, {"code": 429}])
def test_faults_of_other_stores_are_known_by_their_status(known):
    assert http_status(HttpError(**known)) in (503, 429)
    assert is_retryable(HttpError(**known), "s3")
    assert not is_retryable(HttpError(code=403), "s3")
    assert not is_retryable(HttpError(code=501), "s3")


def test_a_disk_that_times_out_is_not_called_unreachable():
    with pytest.raises(StoreError, match="check the address") as caught, translate_errors("/archive", "read"):
        raise TimeoutError("Connection timed out")
    assert type(caught.value) is StoreError


def test_a_store_that_is_not_s3_commits_by_the_same_rules():
    store = RunStore.open("memory://archive/run")
    store.create_or_check(a_run())
    attempt = store.attempts.start("A17", deadline_s=60)
    assert commit(store, "A17", attempt=attempt)
    assert commit(store, "A17", attempt=attempt)
    assert not commit(store, "A17")
    assert store.committed_files() == {"A17": "objects/well=6407%2F6-5/A17.parquet"}
    assert [one.attempt for one in store.summaries()] == [attempt.attempt]
    assert store.files.find(".probe") == []
    store.files.delete("objects")
    assert store.committed() == set()
