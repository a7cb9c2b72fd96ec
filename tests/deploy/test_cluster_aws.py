"""The AWS files against a simulated AWS: Ray's own provider starts the machines, and the policies suffice."""

from __future__ import annotations

import json
import os
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws
from moto_process import moto_server
from support.remote_slides import upload
from support.slides_on_disk import write_slide

from fossilray.core.config import StoreConfig, load_config
from fossilray.core.records import WorkItem
from fossilray.processing.worker import SlideWorker
from fossilray.slides.catalog import find_slides
from fossilray.store import RunStore
from fossilray.store.maintenance.orphans import list_array_groups
from fossilray.store.run.run_record import describe_run

CLUSTER = Path(__file__).parents[2] / "cluster"
REGION = "eu-north-1"
ACCOUNT = "123456789012"
CLASSICAL = ("detector.kind=classical", "detector.classical.min_area_um2=100", "embedder.weights=none")
POLICIES = ("iam-worker", "iam-head", "iam-operator", "iam-trust")


def policy(name: str) -> dict[str, Any]:
    """A policy as its user fills it in."""
    text = (CLUSTER / f"{name}.json").read_text(encoding="utf-8")
    for blank, value in (("region", REGION), ("account", ACCOUNT), ("slides", "slides"), ("run", "run")):
        text = text.replace(f"REPLACE-ME-{blank}", value)
    filled: dict[str, Any] = json.loads(text)
    return filled


@pytest.mark.parametrize("name", POLICIES)
def test_policies_allow_and_name_what_they_allow(name: str) -> None:
    document = policy(name)
    assert document["Version"] == "2012-10-17"
    for statement in document["Statement"]:
        assert statement["Effect"] == "Allow" or statement["Condition"]
        assert not {"NotAction", "NotResource", "NotPrincipal"} & statement.keys()
        for action in as_list(statement["Action"]):
            assert "*" not in action
            if statement.get("Resource") == "*":
                # EC2 has no narrower permission for these.
                assert action.startswith("ec2:Describe")
    assert "REPLACE-ME" not in json.dumps(document)


def test_a_worker_may_read_slides_and_write_the_run_and_nothing_else() -> None:
    allowed = {
        (action, resource)
        for statement in policy("iam-worker")["Statement"]
        if statement["Effect"] == "Allow"
        for action in as_list(statement["Action"])
        for resource in as_list(statement["Resource"])
    }
    assert allowed == {
        ("s3:ListBucket", "arn:aws:s3:::slides"),
        ("s3:GetObject", "arn:aws:s3:::slides/*"),
        ("s3:ListBucket", "arn:aws:s3:::run"),
        ("s3:ListBucketMultipartUploads", "arn:aws:s3:::run"),
        ("s3:GetObject", "arn:aws:s3:::run/*"),
        ("s3:PutObject", "arn:aws:s3:::run/*"),
        ("s3:AbortMultipartUpload", "arn:aws:s3:::run/*"),
        ("s3:DeleteObject", "arn:aws:s3:::run/*.probe/*"),
    }


def test_a_worker_may_create_an_objects_file_but_not_replace_one() -> None:
    [denied] = [one for one in policy("iam-worker")["Statement"] if one["Effect"] == "Deny"]
    assert denied["Action"] == "s3:PutObject"
    assert denied["Resource"] == "arn:aws:s3:::run/*objects/*"
    # AWS, "Enforce conditional writes on Amazon S3 buckets": no If-None-Match in a request that creates an object.
    assert denied["Condition"] == {
        "Null": {"s3:if-none-match": "true"},
        "Bool": {"s3:ObjectCreationOperation": "true"},
    }


def test_rays_provider_starts_a_head_and_spot_workers_from_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with mock_aws():
        ec2 = boto3.client("ec2", region_name=REGION)
        config = bootstrapped(ec2)
        # What comes now the head does by itself, with its own role.
        requested: set[str] = set()
        boto3.setup_default_session(region_name=REGION)
        boto3.DEFAULT_SESSION.events.register(
            "before-call.ec2", lambda model, **_: requested.add(f"ec2:{model.name}")
        )
        instances = {name: launch(config, name) for name in ("head", "gpu-spot-l4", "gpu-spot-a10g")}
    boto3.setup_default_session()
    assert {"ec2:RunInstances", "ec2:TerminateInstances"} <= requested
    assert requested <= {
        action for statement in policy("iam-head")["Statement"] for action in as_list(statement["Action"])
    }
    for name, instance in instances.items():
        given = config["available_node_types"][name]["node_config"]
        assert instance["InstanceType"] == given["InstanceType"]
        assert instance["IamInstanceProfile"]["Arn"].endswith(
            "fossilray-head" if name == "head" else "-worker"
        )
        assert instance["MetadataOptions"]["HttpTokens"] == "required"
        assert [group["GroupId"] for group in instance["SecurityGroups"]] == given["SecurityGroupIds"]
        assert (instance.get("InstanceLifecycle") == "spot") == ("spot" in name)
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        assert tags["ray-cluster-name"] == "fossilray"


def bootstrapped(ec2: Any) -> dict[str, Any]:
    """The file filled in with what the simulated account has, as `ray up` prepares it."""
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.util import prepare_config, validate_config

    iam = boto3.client("iam", region_name=REGION)
    for name in ("fossilray-head", "fossilray-worker"):
        iam.create_instance_profile(InstanceProfileName=name)
    subnet = ec2.describe_subnets()["Subnets"][0]
    group = ec2.create_security_group(GroupName="g", Description="g", VpcId=subnet["VpcId"])["GroupId"]
    image = ec2.describe_images()["Images"][0]["ImageId"]
    text = (CLUSTER / "aws.yaml").read_text(encoding="utf-8")
    text = text.replace("REPLACE-ME-region", REGION).replace("ami-REPLACE-ME", image)
    text = text.replace("sg-REPLACE-ME", group).replace("subnet-REPLACE-ME", subnet["SubnetId"])
    config = prepare_config(yaml.safe_load(text))
    validate_config(config)
    key = ec2.create_key_pair(KeyName="fossilray")
    config["auth"]["ssh_private_key"] = os.devnull
    for kind in config["available_node_types"].values():
        kind["node_config"] = {**kind["node_config"], "KeyName": key["KeyName"]}
    filled: dict[str, Any] = bootstrap_aws(config)
    return filled


def launch(config: dict[str, Any], name: str) -> dict[str, Any]:
    """One machine of a kind, started and looked at through the provider that Ray's autoscaler uses."""
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_NODE_STATUS, TAG_RAY_USER_NODE_TYPE

    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    tags = {TAG_RAY_NODE_KIND: "head" if name == "head" else "worker", TAG_RAY_USER_NODE_TYPE: name}
    started = provider.create_node(config["available_node_types"][name]["node_config"], tags, 1)
    (instance_id,) = started
    assert instance_id in provider.non_terminated_nodes({TAG_RAY_USER_NODE_TYPE: name})
    provider.set_node_tags(instance_id, {TAG_RAY_NODE_STATUS: "up-to-date"})
    client = boto3.client("ec2", region_name=REGION)
    looked = client.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
    found: dict[str, Any] = looked
    provider.terminate_node(instance_id)
    return found


@dataclass(frozen=True)
class GuardedStore:
    """An S3 that knows two users: one may do all, the other what iam-worker.json allows."""

    endpoint: str
    owner: dict[str, str]
    worker: dict[str, str]

    def client(self, keys: dict[str, str]) -> Any:
        return boto3.client("s3", endpoint_url=self.endpoint, region_name=REGION, **keys)


@pytest.fixture
def guarded() -> Iterator[GuardedStore]:
    with moto_server() as endpoint:
        testing_keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        iam = boto3.client("iam", endpoint_url=endpoint, region_name=REGION, **testing_keys)
        s3 = boto3.client("s3", endpoint_url=endpoint, region_name=REGION, **testing_keys)
        for bucket in ("slides", "run", "others"):
            s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        everything = {
            "Version": "2012-10-17",
            "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"},
        }
        owner = new_user(iam, "owner", everything)
        allowed = policy("iam-worker")
        # moto knows no condition key of S3, and would deny every request that the conditional statement names.
        allowed["Statement"] = [one for one in allowed["Statement"] if one["Effect"] == "Allow"]
        worker = new_user(iam, "worker", allowed)
        # From here on moto checks identity and permissions.
        request = urllib.request.Request(
            f"{endpoint}/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(request).close()
        yield GuardedStore(endpoint, owner, worker)


def test_the_workers_policy_suffices_for_a_slide_and_opens_nothing_else(
    guarded: GuardedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = StoreConfig(endpoint_url=guarded.endpoint, region=REGION)
    write_slide(tmp_path / "slides" / "a.mrxs")
    act_as(guarded.owner, monkeypatch)
    upload(tmp_path / "slides", "s3://slides/census", access)

    act_as(guarded.worker, monkeypatch)
    config = load_config(None, [*CLASSICAL, f"slides.scratch={tmp_path / 'scratch'}"])
    config = config.model_copy(update={"store": access})
    rows = find_slides("s3://slides/census", access=access).rows
    store = RunStore.open("s3://run/census", access)
    store.create_or_check(describe_run(config, {}))
    worker = SlideWorker("s3://run/census", config)
    worker.prepare()
    assert worker.process(WorkItem.of_slide(rows[0])).failure is None
    assert store.committed() == {"a"}

    # A second attempt that comes too late leaves its arrays, which an operator's role collects.
    assert worker.process(WorkItem.of_slide(rows[0])).failure is None
    assert len(list_array_groups(store, "a")) == 2

    s3 = guarded.client(guarded.worker)
    committed = [
        found["Key"] for found in s3.list_objects_v2(Bucket="run", Prefix="census/objects/")["Contents"]
    ]
    assert len(committed) == 1
    for refused in (
        lambda: s3.delete_object(Bucket="run", Key=committed[0]),
        lambda: s3.delete_object(Bucket="run", Key="census/run.json"),
        lambda: s3.put_object(Bucket="slides", Key="census/a.mrxs", Body=b""),
        lambda: s3.delete_object(Bucket="slides", Key="census/a.mrxs"),
        lambda: s3.get_object(Bucket="others", Key="x"),
        lambda: s3.list_objects_v2(Bucket="others"),
        lambda: s3.put_bucket_policy(Bucket="run", Policy="{}"),
    ):
        with pytest.raises(s3.exceptions.ClientError, match=re.compile("denied", re.IGNORECASE)):
            refused()


def new_user(iam: Any, name: str, document: dict[str, Any]) -> dict[str, str]:
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(document))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}


def act_as(keys: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in keys.items():
        monkeypatch.setenv(name.upper(), value)
    # fsspec keeps filesystems by their options, and options name no user.
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
