"""Spoiled files of weights of every kind, and what loading them ends in: run as a program in a process of its own.

`python weights_fuzz.py FOLDER SEED EACH FIRST` spoils each sound file EACH times, loads what came of it from number
FIRST on and prints a line for each: number, kind, outcome. The program that started it sees crashes and hangs.
"""

from __future__ import annotations

import copy
import inspect
import io
import json
import random
import resource
import select
import subprocess
import sys
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

KINDS = (
    *("detector.safetensors", "detector.pt", "detector.onnx", "detector.torchscript", "backbone.safetensors"),
    *("backbone.pth", "legacy.pth", "head.safetensors", "mlp.safetensors", "step-00000002.pt", "coder.faiss"),
)
HOSTILE: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1,
        2**31,
        2**62,
        2**70,
        1e308,
        -1e308,
        float("inf"),
        float("nan"),
        0.5,
        "",
        "x" * 5000,
    ),
    *(
        "../../etc/passwd",
        "nc",
        "d",
        "__import__('os').system('false')",
        "hf-hub:a/b",
        "DetectionModel",
        "nn.Module",
    ),
    *([], {}, [[[]]], [1e308] * 3, {"pretrained": True}, {"checkpoint_path": "/tmp/x"}, ["a"] * 2000),
)
SECONDS = 20.0
MEMORY = 6 * 2**30


def nested(depth: int) -> Any:
    tree: Any = []
    for _ in range(depth):
        tree = [tree]
    return tree


def spoil(tree: Any, rng: random.Random) -> Any:
    """The tree of dicts and lists with one value, or what lies under it, replaced, removed or doubled."""
    tree = copy.deepcopy(tree)
    holder, place = [tree], 0
    while isinstance(holder[place], (dict, list)) and holder[place] and rng.random() < 0.85:
        holder = holder[place]
        place = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    action = rng.randrange(8)
    if action == 0 and isinstance(holder, dict):
        del holder[place]
    elif action == 1 and isinstance(holder, dict):
        holder[rng.choice(("unknown", "checkpoint_path", "pretrained_cfg", "yaml_file", "activation"))] = (
            rng.choice(HOSTILE)
        )
    elif action == 2:
        holder[place] = nested(rng.choice((5, 100, 900)))
    else:
        holder[place] = rng.choice(HOSTILE)
    return tree


def spoil_bytes(content: bytes, rng: random.Random) -> bytes:
    action = rng.randrange(5)
    some = bytearray(content)
    if action == 0:
        return content[: rng.randrange(len(content) + 1)]
    if action == 1:
        start = rng.randrange(len(content))
        return content[:start] + content[start + rng.randrange(1, 64) :]
    window = min(len(some), rng.choice((300, 5000, len(some))))
    for _ in range(rng.choice((1, 1, 3, 20))):
        where = rng.randrange(window) if rng.random() < 0.7 else len(some) - 1 - rng.randrange(window)
        some[where] = rng.choice((0, 0xFF, 0x7F, some[where] ^ (1 << rng.randrange(8)), rng.randrange(256)))
    return bytes(some)


def spoil_member(content: bytes, name: str, rng: random.Random) -> bytes:
    """A zip archive with one member spoiled and its checksum right again."""
    fresh = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(fresh, "w") as sink:
        for one in archive.infolist():
            held = archive.read(one)
            sink.writestr(
                one.filename, spoil_bytes(held, rng) if one.filename.endswith(name) and held else held
            )
    return fresh.getvalue()


def spoil_header(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file with another header: what it says of itself, or of its tensors, spoiled as JSON."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if rng.random() < 0.75:
        stated = spoil(json.loads(header["__metadata__"]["fossilray"]), rng)
        text = "[" * 100_000 if rng.random() < 0.1 else json.dumps(stated)
        header["__metadata__"]["fossilray"] = text
    else:
        header = spoil(header, rng)
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + content[8 + length :]


def make_sound(folder: Path) -> dict[str, Callable[[random.Random], bytes]]:  # noqa: PLR0915
    """Writes a sound file of each kind; what spoils each."""
    import numpy as np
    import onnx
    import timm
    import torch
    from support.small_network import SMALL, build, meta

    from fossilray.analysis.search.quantizer import VectorQuantizer
    from fossilray.core.config.training import TrainConfig
    from fossilray.core.vectors import unit_vectors
    from fossilray.models.backbones.backbone_file import BackboneMeta, save_backbone
    from fossilray.models.detectors.detector_file import save_detector
    from fossilray.models.heads import save_head
    from fossilray.models.heads.fit import train_head
    from fossilray.models.heads.head import BackboneReference
    from fossilray.training.checkpoint import Position, save_checkpoint

    network = build(SMALL)
    save_detector(folder / "detector.safetensors", state_dict=network.state_dict(), meta=meta())
    torch.save({"model": network, "date": "x"}, folder / "detector.pt")
    small = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 8, 8), torch.nn.Flatten(2))
    example = torch.zeros(1, 3, 64, 64)
    torch.onnx.export(small, (example,), str(folder / "detector.onnx"), input_names=["images"], dynamo=False)
    torch.jit.save(torch.jit.trace(small, example), str(folder / "detector.torchscript"))
    kwargs = {"channels": [8, 8, 8, 8]}
    backbone = timm.create_model("resnet18", pretrained=False, num_classes=0, **kwargs)
    stated = BackboneMeta(
        name="small", architecture="resnet18", kwargs=kwargs, dimension=8, input_px=32,
        mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), interpolation="bilinear",
    )  # fmt: skip
    save_backbone(folder / "backbone.safetensors", state_dict=backbone.state_dict(), meta=stated)
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, depth=1, img_size=32)
    torch.save({"teacher": vit.state_dict(), "epoch": 3}, folder / "backbone.pth")
    torch.save(vit.state_dict(), folder / "legacy.pth", _use_new_zipfile_serialization=False)
    rng = np.random.default_rng(0)
    for kind, name in (("knn", "head"), ("mlp", "mlp")):
        head = train_head(
            rng.normal(size=(30, 6)).astype(np.float32), np.arange(30) % 3, ("a", "b", "c"), kind=kind,
            backbone=BackboneReference(name="small", sha256=""),
        )  # fmt: skip
        save_head(folder / f"{name}.safetensors", head)
    layer = torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    config = training_config()
    assert isinstance(config, TrainConfig)
    save_checkpoint(
        folder, config=config, position=Position(2, 0, 2, 1.5), world=1, method=layer.state_dict(),
        optimiser=optimiser.state_dict(), kept=9,
    )  # fmt: skip
    coder = VectorQuantizer.train(
        unit_vectors(rng.normal(size=(400, 100)).astype(np.float32)), name="pca64-8bit", lists=4, seed=1
    )
    (folder / "coder.faiss").write_bytes(coder.to_bytes())
    model = onnx.load(str(folder / "detector.onnx"))

    def other_checkpoint(rng: random.Random) -> bytes:
        held = torch.load(folder / "step-00000002.pt", weights_only=True)
        return saved(spoil(held, rng))

    def other_model(rng: random.Random) -> bytes:
        spoiled = copy.deepcopy(network)
        spoiled.yaml = spoil(spoiled.yaml, rng)
        return saved({"model": spoiled})

    def other_state(rng: random.Random) -> bytes:
        state = dict(vit.state_dict())
        name = rng.choice(list(state))
        other = (
            torch.zeros(1).expand(2 ** rng.randrange(40)),
            torch.zeros(0),
            torch.zeros(2, 3, 4),
            rng.choice(HOSTILE),
        )
        state[rng.choice((name, "module." * 3000 + "x", "blocks.99999999999.x"))] = rng.choice(other)
        return saved(state)

    def other_onnx(rng: random.Random) -> bytes:
        spoiled = copy.deepcopy(model)
        node, tensor = rng.choice(spoiled.graph.node), rng.choice(spoiled.graph.initializer)
        action = rng.randrange(4)
        if action == 0:
            node.op_type, node.domain = rng.choice(
                (("EPContext", "com.microsoft"), ("Foo", "my"), ("Loop", ""))
            )
        elif action == 1:
            tensor.dims[0] = rng.choice((-1, 2**31, 2**62, 0))
        elif action == 2:
            onnx.external_data_helper.set_external_data(
                tensor, rng.choice(("../../../etc/passwd", "/dev/zero", "x"))
            )
            tensor.ClearField("raw_data")
        else:
            onnx.helper.set_model_props(spoiled, {"stride": str(rng.choice(HOSTILE)), "args": "(" * 5000})
        return bytes(spoiled.SerializeToString())

    sound = {name: (folder / name).read_bytes() for name in KINDS}
    special: dict[str, tuple[Callable[[random.Random], bytes], ...]] = {
        name: (lambda rng, name=name: spoil_header(sound[name], rng),)
        for name in KINDS
        if name.endswith(".safetensors")
    }
    for name in ("detector.pt", "backbone.pth", "step-00000002.pt"):
        special[name] = (lambda rng, name=name: spoil_member(sound[name], "data.pkl", rng),)
    special["detector.torchscript"] = tuple(
        (lambda rng, part=part: spoil_member(sound["detector.torchscript"], part, rng))
        for part in ("data.pkl", ".py")
    )
    special["detector.pt"] += (other_model, other_model)
    special["step-00000002.pt"] += (other_checkpoint, other_checkpoint)
    special["backbone.pth"] += (other_state, other_state)
    special["detector.onnx"] = (other_onnx,)
    return {
        name: (
            lambda rng, name=name: rng.choice(
                (*special.get(name, ()), lambda r: spoil_bytes(sound[name], r))
            )(rng)
        )
        for name in KINDS
    }


def saved(held: Any) -> bytes:
    import torch

    sink = io.BytesIO()
    torch.save(held, sink)
    return sink.getvalue()


def training_config() -> Any:
    from fossilray.core.config.training import TrainConfig

    return TrainConfig(method="dino", arch="resnet18", init="scratch", data={"sources": ["crops"]})


def load(path: Path) -> object:
    """What the program does with a file of this name."""
    from fossilray.analysis.search.quantizer import VectorQuantizer
    from fossilray.core.config import DetectorConfig, EmbedderConfig
    from fossilray.models.backbones.load import load_network
    from fossilray.models.detectors.load import load_detector
    from fossilray.models.heads import load_head
    from fossilray.training.checkpoint import load_checkpoint

    if path.name.startswith("detector"):
        return load_detector(DetectorConfig(weights=str(path)), device="cpu")
    if path.name.startswith(("backbone", "legacy")):
        return load_network(EmbedderConfig(weights=f"file:{path}"))
    if path.name.startswith("step"):
        return load_checkpoint(path, training_config())
    if path.name.startswith("coder"):
        more = (
            {"dimension": 100, "lists": 4}
            if "lists" in inspect.signature(VectorQuantizer.from_bytes).parameters
            else {}
        )
        return VectorQuantizer.from_bytes(path.read_bytes(), name="pca64-8bit", path=str(path), **more)
    return load_head(path)


def outcome(path: Path) -> str:
    from fossilray.core.errors import FossilrayError

    try:
        load(path)
    except FossilrayError as error:
        return (
            "refused"
            if "\n" not in str(error) and len(str(error)) < 3000
            else f"message {str(error)[:300]!r}"
        )
    except BaseException as error:  # noqa: BLE001  what is counted here
        return f"traceback {type(error).__name__}: {str(error)[:200]!r}"
    return "loaded"


def main(folder: str, seed: str, each: str, first: str) -> None:
    warnings.simplefilter("ignore")
    place = Path(folder)
    (place / "sound").mkdir(exist_ok=True)
    (place / "spoiled").mkdir(exist_ok=True)
    spoilers = make_sound(place / "sound")
    for name in KINDS:  # imports happen here, outside of what is timed
        found = outcome(place / "sound" / name)
        assert found == "loaded", (name, found)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    for number in range(int(first), int(each) * len(KINDS)):
        name = KINDS[number % len(KINDS)]
        path = place / "spoiled" / name
        print(json.dumps([number, name, "start"]), flush=True)
        try:
            path.write_bytes(spoilers[name](random.Random(f"{seed} {number}")))
        except (
            RecursionError,
            RuntimeError,
            ValueError,
            TypeError,
            AttributeError,
        ):  # nothing that could be saved
            print(json.dumps([number, name, "unsaved"]), flush=True)
            continue
        print(json.dumps([number, name, "written"]), flush=True)
        print(json.dumps([number, name, outcome(path)]), flush=True)


def count_outcomes(folder: Path, *, seed: int, each: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """How often loading a spoiled file of each kind ended how, and each end that is none of loaded and refused."""
    counted: Counter[tuple[str, str]] = Counter()
    faults: list[str] = []
    first = 0
    while first < each * len(KINDS):
        command = [sys.executable, __file__, str(folder), str(seed), str(each), str(first)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=False
        ) as child:
            assert child.stdout is not None
            first = _follow(child, counted, faults, first)
    return counted, faults


def _follow(
    child: subprocess.Popen[bytes], counted: Counter[tuple[str, str]], faults: list[str], first: int
) -> int:
    """Read lines until the child ends or hangs; the number to go on with."""
    assert child.stdout is not None
    started, last, kind, stage = False, first, "", ""
    waiting = b""
    limit = time.monotonic() + 240
    while True:
        ready, _, _ = select.select([child.stdout], [], [], max(0.0, limit - time.monotonic()))
        content = child.stdout.read1() if ready else b""  # type: ignore[attr-defined]
        if not content:
            break
        *lines, waiting = (waiting + content).split(b"\n")
        for line in lines:
            if not line.startswith(b"["):
                continue
            last, kind, stage = json.loads(line)
            started = True
            limit = time.monotonic() + SECONDS
            if stage not in ("start", "written"):
                end = stage.split()[0]
                counted[kind, end] += 1
                if end not in ("loaded", "refused", "unsaved"):
                    faults.append(f"{last} {kind}: {stage}")
    hung = child.poll() is None and not _ended(child)
    child.kill()
    code = child.wait()
    if code == 0:
        return sys.maxsize
    assert started, f"the sound files are not loaded (exit {code})"
    if stage in ("start", "written"):
        end = ("hang" if hung else "crash") if stage == "written" else "spoiler"
        counted[kind, end] += 1
        faults.append(f"{last} {kind}: {end} {code}")
    return last + 1


def _ended(child: subprocess.Popen[bytes]) -> bool:
    try:
        child.wait(2)
    except subprocess.TimeoutExpired:
        return False
    return True


if __name__ == "__main__":
    if len(sys.argv) == 4:
        found, ends = count_outcomes(Path(sys.argv[1]), seed=int(sys.argv[2]), each=int(sys.argv[3]))
        for (kind, end), times in sorted(found.items()):
            print(f"{kind:24} {end:10} {times}")
        print(*ends, sep="\n")
    else:
        main(*sys.argv[1:])
