"""Mistakes in a file for Ray's cluster launcher, each as a sentence: `python cluster/check.py cluster/aws.yaml`.

Three checks: Ray's own schema (`prepare_config`, `validate_config`); the cloud's own parameter names (botocore's model
of RunInstances, Compute Engine's description of an instance); and rules that neither knows, about money, secrets and
open doors. No request goes over the network. `--ready` also refuses what is still to be filled in.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

BLANK = "REPLACE-ME"
CORES_PER_GPU = 8
"""Beside a GPU a slide costs 27 core-seconds (docs/cluster/performance.md): with fewer cores it waits for them."""
IDLE_MINUTES = (2, 30)
OBJECT_STORE_BYTES = 2**30
"""Some hundred bytes a slide pass through it; Ray would take a third of the memory."""
LOCAL_DISK = re.compile(r"^(g5|g6|g6e|gr6)\.|^\w+d\.")
"""EC2 instance types that bring an instance store, as their names tell."""
SECRETS = {
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|(?i:aws_secret_access_key|aws_session_token)",
    "a private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----",
    "a Ray token": r"(?i)RAY_AUTH_TOKEN=",
    "a password in an address": r"://[^\s/:@]+:[^\s/@]+@",
}


def main() -> int:
    """Print what is wrong and what is left to fill in; 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--ready", action="store_true", help="refuse what is still to be filled in")
    given = parser.parse_args()
    refused = False
    for path in given.files:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        mistakes, blanks = list(find_mistakes(config)), sorted(find_blanks(config))
        for mistake in mistakes:
            sys.stdout.write(f"{path}: {mistake}\n")
        for blank in blanks:
            sys.stdout.write(f"{path}: to fill in: {blank}\n")
        if not mistakes:
            sys.stdout.write(f"{path}: no mistake found\n")
        refused = refused or bool(mistakes) or (given.ready and bool(blanks))
    return int(refused)


def find_mistakes(config: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a launcher's file as `yaml.safe_load` gives it, a sentence each."""
    try:
        # What Ray makes of it: a part that the file leaves out is Ray's default, and that is checked too.
        prepared = _prepared(config)
    except ValueError as error:
        yield f"Ray refuses it: {error}"
        return
    if prepared["provider"]["type"] not in ("aws", "gcp"):
        yield f"provider.type is {prepared['provider']['type']}; this checks aws and gcp"
        return
    for rules in (_of_secrets, _of_head, _of_groups, _of_money, _of_doors, _of_commands):
        yield from rules(prepared)


def find_blanks(config: dict[str, Any]) -> set[str]:
    """Texts in which something is still to be filled in."""
    return {text for _, text in _texts(config) if BLANK in text}


def _prepared(config: dict[str, Any]) -> dict[str, Any]:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
        validate_config(prepared)
    except ValidationError as error:
        where = ".".join(map(str, error.absolute_path)) or "the file"
        raise ValueError(f"{where}: {error.message.splitlines()[0]}") from error
    except (KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return prepared


def _of_secrets(config: dict[str, Any]) -> Iterator[str]:
    for where, text in _texts(config):
        for name, pattern in SECRETS.items():
            if re.search(pattern, text):
                yield f"{where} holds {name}; use an instance profile, and files that are mounted"
    for name in ("aws_credentials", "gcp_credentials"):
        if name in config["provider"]:
            yield f"provider.{name} holds credentials; use your own tool's login and an instance's role"


def _of_head(config: dict[str, Any]) -> Iterator[str]:
    name = config["head_node_type"]
    head = config["available_node_types"][name]
    for resource in ("CPU", "GPU"):
        if head["resources"].get(resource) != 0:
            yield f"{name}.resources.{resource} is {head['resources'].get(resource)}; 0 keeps slides off the head"
    if _is_spot(head["node_config"]):
        yield f"{name} is a spot machine; the driver dies with it, so take on-demand"
    if head.get("max_workers", 0) != 0:
        yield f"{name}.max_workers is {head['max_workers']}; 0, or there will be more heads"


def _of_groups(config: dict[str, Any]) -> Iterator[str]:
    groups = _groups(config)
    for name, group in groups.items():
        if group.get("min_workers", 0) != 0:
            yield f"{name}.min_workers is {group['min_workers']}; 0, or machines are paid for while nothing runs"
        gpus, cpus = group["resources"].get("GPU", 0), group["resources"].get("CPU", 0)
        if gpus < 1 and "cpu" not in name:
            yield f"{name}.resources.GPU is {gpus}; it never comes for a GPU then; if intended, put cpu in its name"
        elif cpus < CORES_PER_GPU * gpus:
            yield f"{name} has {cpus} CPUs for {gpus} GPUs; reading needs {CORES_PER_GPU} or more a GPU"
        yield from _of_machine(config, name, group["node_config"])
    spot = [name for name, group in groups.items() if _is_spot(group["node_config"])]
    if not any(groups[name].get("max_workers") for name in spot):
        yield "no group of spot machines may bring one; an archive resumes by itself, so let it use them"
    for name in groups.keys() - spot:
        for better in spot:
            same = groups[name]["resources"] == groups[better]["resources"]
            if same and name > better:
                yield f"{name} comes before {better} in Ray's autoscaler v1 (last name first); rename it"
            if same and groups[name].get("priority", 0) >= groups[better].get("priority", 0):
                yield f"{name}.priority is not below that of {better}; autoscaler v2 takes the highest first"


def _of_machine(config: dict[str, Any], name: str, node: dict[str, Any]) -> Iterator[str]:
    if ("spot" in name) != _is_spot(node):
        yield (
            f"{name} is named a spot group and has no spot marker"
            if "spot" in name
            else f"{name} is made of spot machines and its name lacks the word spot"
        )
    head = config["available_node_types"][config["head_node_type"]]["node_config"]
    role = "IamInstanceProfile" if config["provider"]["type"] == "aws" else "serviceAccounts"
    if role not in node:
        yield f"{name} has no {role}; workers reach the buckets by a role of their own"
    elif node[role] == head.get(role):
        yield f"{name} has the head's {role}; a worker must not start machines"
    if config["provider"]["type"] == "aws":
        if not LOCAL_DISK.match(node.get("InstanceType", "")):
            yield f"{name}: {node.get('InstanceType')} has no instance store by its name; slides are staged on one"
    elif not any(disk.get("type") == "SCRATCH" for disk in node.get("disks", [])):
        yield f"{name} has no disk of type SCRATCH; slides are staged on local NVMe"


def _of_money(config: dict[str, Any]) -> Iterator[str]:
    least, most = IDLE_MINUTES
    idle = config["idle_timeout_minutes"]
    if not least <= idle <= most:
        yield f"idle_timeout_minutes is {idle}; {least} to {most} gives machines back, and not while they install"
    if config["cluster_name"] == "default":
        yield "cluster_name is not set; machines of another cluster named default would be taken for this one's"
    if config["provider"].get("cache_stopped_nodes") is not False:
        yield "provider.cache_stopped_nodes is not false; stopped machines go on costing for their disks"
    if config["provider"]["type"] == "gcp" and not _is_blank(config["provider"].get("availability_zone", "")):
        zone, region = config["provider"]["availability_zone"], config["provider"]["region"]
        if not zone.startswith(region):
            yield f"provider.availability_zone {zone} is not in {region}"


def _of_doors(config: dict[str, Any]) -> Iterator[str]:
    aws = config["provider"]["type"] == "aws"
    for name, kind in config["available_node_types"].items():
        node = kind["node_config"]
        yield from (f"{name}.node_config: {fault}" for fault in (_ec2_faults if aws else _gce_faults)(node))
        if aws:
            if not node.get("SecurityGroupIds"):
                yield f"{name} has no SecurityGroupIds; Ray would open port 22 to the whole world"
            if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
                yield f"{name}.MetadataOptions.HttpTokens is not required; any process can read the role's credentials"
            if not str(node.get("ImageId", "")).startswith("ami-"):
                yield f"{name}.ImageId is {node.get('ImageId')}; name one image by its ami-…"
        else:
            if not node.get("networkInterfaces"):
                yield f"{name} has no networkInterfaces; Ray would take the first subnet it finds"
            if not node.get("serviceAccounts"):
                yield f"{name} has no serviceAccounts; Ray would make one that may do far more"
            for disk in node.get("disks", []):
                if "/family/" in disk.get("initializeParams", {}).get("sourceImage", ""):
                    yield f"{name}: an image family changes under a running archive; name one image"
    if config["provider"].get("security_group", {}).get("IpPermissions"):
        yield "provider.security_group opens ports; reach the dashboard by `ray dashboard`"


def _of_commands(config: dict[str, Any]) -> Iterator[str]:
    starts = {part: " ".join(config[f"{part}_start_ray_commands"]) for part in ("head", "worker")}
    for part, text in starts.items():
        store = re.search(r"--object-store-memory[= ](\d+)", text)
        if not store or int(store[1]) > OBJECT_STORE_BYTES:
            yield f"{part}: give --object-store-memory of at most 1 GiB; Ray would take a third of the memory"
        if "RAY_AUTH_MODE=token" not in text:
            yield f"{part}: RAY_AUTH_MODE=token is missing; any client that reaches Ray's ports can run code"
        if "RAY_USAGE_STATS_ENABLED=0" not in text:
            yield f"{part}: RAY_USAGE_STATS_ENABLED=0 is missing"
    if "--disable-usage-stats" not in starts["head"]:
        yield "head: --disable-usage-stats is missing"
    host = re.search(r"--dashboard-host[= ](\S+)", starts["head"])
    if not host or host[1] not in ("127.0.0.1", "localhost"):
        yield f"head: --dashboard-host is {host[1] if host else 'not set'}; 127.0.0.1, and `ray dashboard` leads there"
    if not any(remote.endswith(".ray/auth_token") for remote in config["file_mounts"]):
        yield "file_mounts brings no ~/.ray/auth_token; with RAY_AUTH_MODE=token nothing would start"
    # Ray has put the common commands before those of the head and of the workers.
    for command in dict.fromkeys(config["head_setup_commands"] + config["worker_setup_commands"]):
        if "pip install" in command and not re.search(r"--require-hashes|--no-deps", command):
            yield f"`{command}` pins no versions; give pip --require-hashes and the lock file"
    if not any("scratch.sh" in command for command in config["worker_setup_commands"]):
        yield "worker_setup_commands does not call scratch.sh; the local NVMe would stay unused"


def _ec2_faults(node: dict[str, Any]) -> Iterator[str]:
    from botocore.validate import ParamValidator

    # SubnetIds is Ray's own: it tries them in turn.
    given = {name: value for name, value in node.items() if name != "SubnetIds"}
    report = ParamValidator().validate({**given, "MinCount": 1, "MaxCount": 1}, _run_instances())
    if report.has_errors():
        yield from report.generate_report().splitlines()


@functools.cache
def _run_instances() -> Any:
    import botocore.session

    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def _gce_faults(node: dict[str, Any]) -> Iterator[str]:
    from jsonschema import Draft7Validator

    schema = json.loads((Path(__file__).parent / "schema" / "gce-instance.json").read_text("utf-8"))
    for error in Draft7Validator(schema).iter_errors(node):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message}"


def _groups(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: kind
        for name, kind in config["available_node_types"].items()
        if name != config["head_node_type"]
    }


def _is_spot(node: dict[str, Any]) -> bool:
    market, scheduling = node.get("InstanceMarketOptions", {}), node.get("scheduling", {})
    return market.get("MarketType") == "spot" or (
        isinstance(scheduling, dict)
        and (scheduling.get("provisioningModel") == "SPOT" or scheduling.get("preemptible") is True)
    )


def _is_blank(text: str) -> bool:
    return BLANK in text


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, f"{where}[{number}]")
    elif isinstance(value, str):
        yield where, value


if __name__ == "__main__":
    sys.exit(main())
