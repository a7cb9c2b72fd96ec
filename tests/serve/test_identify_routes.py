"""Identification over the API: uploads named and kept, hostile ones refused, labels of the page at once."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from PIL import Image as Pillow
from support.drawn_photographs import NOVEL, bomb, draw_field, draw_mark
from support.identified_marks import Marks, make_marks
from support.indexed_runs import index_runs
from support.served import an_act, client_of, send
from support.small_run import write_small_run

from fossilray.core.errors import UsageError
from fossilray.serve import identification_desk
from fossilray.serve.decoding import UploadDecoder
from fossilray.serve.identification_desk import IdentificationDesk, IdentificationSettings
from fossilray.store import RunStore


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Marks:
    return make_marks(tmp_path_factory.mktemp("marks"))


@pytest.fixture(scope="module")
def run(marks: Marks, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return marks.write_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def client(marks: Marks, run: RunStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    labels = tmp_path_factory.mktemp("labels") / "set"
    with client_of(run, labels=labels, identification=IdentificationSettings(head=marks.head)) as opened:
        yield opened


def png(pixels: NDArray[np.uint8]) -> bytes:
    sink = io.BytesIO()
    Pillow.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def identify(client: TestClient, content: bytes, **query: Any) -> Any:
    sent = client.post("/api/identify", content=content, params=query)
    assert sent.status_code == 200, sent.text
    return sent.json()


def picture(client: TestClient, path: str, **query: Any) -> NDArray[np.uint8]:
    received = client.get(f"/api/identify/{path}", params=query)
    assert received.status_code == 200, received.text
    assert "private" in received.headers["cache-control"]
    return np.asarray(Pillow.open(io.BytesIO(received.content)))


def test_the_page_learns_what_identifies(client: TestClient, marks: Marks, run: RunStore) -> None:
    described = client.get("/api/identify").json()
    assert described["head"]["name"] == marks.head.name
    assert described["classes"] == ["disc", "ring", "triangle"]
    assert described["scopes"] == [f"compared with all 76 objects with pixels of {run.url}"]
    assert described["left_out"] == []


def test_a_crop_is_named_and_its_pictures_are_kept(client: TestClient, run: RunStore) -> None:
    pixels = draw_mark("ring", np.random.default_rng(5))
    identified = identify(client, png(pixels), name="ring <b>.png", mpp=0.5)
    result = identified["result"]
    assert (result["name"], result["view"], result["um_per_px_from"]) == ("ring <b>.png", "crop", "given")
    (found,) = result["objects"]
    assert found["taxa"][0]["name"] == "ring"
    assert len(found["nearest_unlabelled"]) == 24
    assert identified["runs"] == {run.url: "run"}
    assert picture(client, f"{identified['id']}/image.jpg").shape == pixels.shape
    assert picture(client, f"{identified['id']}/crops/0.jpg").shape == pixels.shape
    heat = picture(client, f"{identified['id']}/heat/0.jpg", taxon="ring")
    assert np.ptp(heat.astype(int), axis=2).max() > 60
    for path in (
        f"{identified['id']}/crops/1.jpg",
        "absent/image.jpg",
        f"{identified['id']}/heat/0.jpg?taxon=oak",
    ):
        assert client.get(f"/api/identify/{path}").status_code == 404


def test_a_field_is_cut(client: TestClient) -> None:
    pixels, boxes = draw_field(["ring", "disc", NOVEL], np.random.default_rng(3))
    identified = identify(client, png(pixels))
    assert (identified["result"]["view"], len(identified["result"]["objects"])) == ("field", len(boxes))
    assert len(identify(client, png(pixels), view="crop")["result"]["objects"]) == 1


def test_a_label_given_on_the_page_names_specimens_at_once(client: TestClient, run: RunStore) -> None:
    send(client, an_act(run, "b", 36, "Triangulum"))
    (found,) = identify(client, png(draw_mark("triangle", np.random.default_rng(5))))["result"]["objects"]
    (specimen,) = found["nearest_labelled"]
    assert (specimen["name"], specimen["who"], specimen["object_id"], specimen["well"]) == (
        "Triangulum",
        "ada",
        36,
        "W-2",
    )
    assert 36 not in [near["object_id"] for near in found["nearest_unlabelled"] if near["slide_id"] == "b"]


def test_hostile_uploads_are_refused_in_words(client: TestClient) -> None:
    whole = png(draw_mark("ring", np.random.default_rng(5)))
    for content, status, words in (
        (b"", 422, "no image"),
        (b"<svg onload=alert(1)>", 422, "none of the formats"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", 422, "none of the formats"),
        (bomb(), 422, "60000 x 60000 px"),
        (whole[: len(whole) // 2], 422, "cannot be decoded"),
        (b"\xff\xd8\xff" + os.urandom(3000), 422, "cannot be decoded"),
        (b" " * (64 * 2**20 + 1), 413, "bytes"),
    ):
        refused = client.post("/api/identify", content=content)
        assert (refused.status_code, words in refused.text) == (status, True), refused.text
    for query in ({"mpp": "nan"}, {"mpp": 900}, {"view": "odd"}, {"name": "x" * 300}):
        assert client.post("/api/identify", content=whole, params=query).status_code == 422
    for headers in ({"origin": "http://evil.example"}, {"host": "evil.example"}):
        assert client.post("/api/identify", content=whole, headers=headers).status_code in (403, 421)
    identify(client, whole)  # and it still works


def test_a_large_upload_is_taken_here_only(client: TestClient) -> None:
    content = b" " * (3 * 2**20)
    assert client.post("/api/runs/run/acts", content=content).status_code == 413
    assert client.post("/api/identify", content=content).status_code == 422


def test_a_decoder_that_dies_or_takes_too_long_is_replaced() -> None:
    whole = png(draw_mark("ring", np.random.default_rng(5)))
    decoder = UploadDecoder(within_s=30)
    decoder.start()
    assert decoder._next is not None
    os.kill(decoder._next.pid, signal.SIGKILL)
    with pytest.raises(UsageError, match="within the memory and the time"):
        decoder.decode(whole, name="ring.png", mpp=None)
    assert decoder.decode(whole, name="ring.png", mpp=0.5).um_per_px == 0.5
    assert decoder._next is not None
    os.kill(decoder._next.pid, signal.SIGSTOP)
    decoder._within_s = 0.3
    with pytest.raises(UsageError, match="within the memory and the time"):
        decoder.decode(whole, name="ring.png", mpp=None)
    decoder.close()


def test_only_so_many_uploads_wait_and_are_kept(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    desk: IdentificationDesk = client.app.state.identification  # type: ignore[attr-defined]
    whole = png(draw_mark("ring", np.random.default_rng(5)))
    taken = 0
    while desk._waiting.acquire(blocking=False):
        taken += 1
    assert client.post("/api/identify", content=whole).status_code == 429
    for _ in range(taken):
        desk._waiting.release()
    first = identify(client, whole)["id"]
    monkeypatch.setattr(identification_desk, "_MOST_KEPT_BYTES", 1)
    second = identify(client, whole)["id"]
    assert client.get(f"/api/identify/{first}/image.jpg").status_code == 404
    assert client.get(f"/api/identify/{second}/image.jpg").status_code == 200


def test_an_index_is_searched_instead_of_the_run(marks: Marks, run: RunStore, tmp_path: Path) -> None:
    index = index_runs([run.url], tmp_path / "index").url
    settings = IdentificationSettings(head=marks.head, index=index)
    with client_of(run, labels=tmp_path / "labels", identification=settings) as client:
        send(client, an_act(run, "b", 36, "Triangulum"))
        assert client.get("/api/identify").json()["scopes"][0].startswith("searched among 78 objects of")
        (found,) = identify(client, png(draw_mark("triangle", np.random.default_rng(5))))["result"]["objects"]
        assert [near["name"] for near in found["nearest_labelled"]] == ["Triangulum"]
        assert len(found["nearest_unlabelled"]) == 24


def test_runs_of_other_backbones_are_named_and_a_head_of_another_one_is_refused(
    marks: Marks, tmp_path: Path
) -> None:
    other = write_small_run(tmp_path / "run")
    with client_of(other) as client:
        result = identify(client, png(draw_mark("ring", np.random.default_rng(5))))["result"]
        assert result["head"] is None
        assert "are of another backbone" in result["notes"][-1]
        assert result["objects"][0]["nearest_unlabelled"] == []
    with pytest.raises(UsageError, match="neither a file"):
        client_of(other, identification=IdentificationSettings(head=marks.head, backbone="absent"))
