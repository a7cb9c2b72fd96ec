"""The page that identifies, in a real browser: chosen, dropped and pasted images, cards, keys, heat maps, links."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import uvicorn
from PIL import Image as Pillow
from support.browser import chromium
from support.drawn_photographs import NOVEL, draw_field, draw_mark
from support.identified_marks import make_marks

from fossilray.serve.access import LOOPBACK
from fossilray.serve.annotators import Annotators
from fossilray.serve.application import build_application
from fossilray.serve.identification_desk import IdentificationSettings
from fossilray.serve.served_run import ServedRun

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def address(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server over a run of marks; the browser comes first, so that nothing is made where there is none."""
    folder = tmp_path_factory.mktemp("page")
    marks = make_marks(folder)
    served = ServedRun("run", marks.write_run(folder / "run"), labels=folder / "set")
    application = build_application(
        [served],
        Annotators.one("ada"),
        hosts=LOOPBACK,
        identification=IdentificationSettings(head=marks.head),
    )
    config = uvicorn.Config(application, port=0, log_level="warning", access_log=False)
    listening = config.bind_socket()
    listening.listen()
    server = uvicorn.Server(config)
    running = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    running.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/identify"
    server.should_exit = True
    running.join()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    complaints: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    opened.goto(address)
    opened.wait_for_selector("text=which knows 3 taxa")
    yield opened
    context.close()
    # An upload that is refused is part of the tests.
    assert [text for text in complaints if "Failed to load resource" not in text] == []


def choose(page: Page, path: Path, *, cards: int) -> None:
    page.set_input_files("input[type=file] >> nth=0", path)
    page.wait_for_selector(f".summary b:text-is('{path.name}')")
    assert page.locator("article.card").count() == cards


def test_a_field_becomes_boxes_and_cards_that_keys_go_through(page: Page, tmp_path: Path) -> None:
    pixels, boxes = draw_field(["ring", "disc", NOVEL, "triangle"], np.random.default_rng(3))
    Pillow.fromarray(pixels).save(tmp_path / "field.tif", resolution=20_000, resolution_unit=3)
    choose(page, tmp_path / "field.tif", cards=len(boxes))
    assert page.locator(".photograph .box").count() == len(boxes)
    assert "a field of view with 4 objects, 0.5 µm per px from the file" in page.inner_text(".summary")
    for number in range(1, len(boxes) + 1):
        assert page.get_attribute(".card.at", "id") == f"object-{number - 1}"
        assert page.locator(".photograph .box.at text").text_content() == str(number)
        assert page.locator(".card.at .specimens li").count() == 24
        page.keyboard.press("ArrowRight")
    page.locator(".photograph .box >> nth=1").click()
    assert page.get_attribute(".card.at", "id") == "object-1"
    assert page.locator("article.card.novel, .photograph .box.novel").count() in (0, 2, 4)
    link = page.locator(".card.at .specimens a >> nth=0")
    address = link.get_attribute("href") or ""
    assert address.startswith("/slide/run/")
    assert page.request.get(page.url.replace("/identify", address)).ok


def test_a_crop_has_shares_and_a_heat_map(page: Page, tmp_path: Path) -> None:
    Pillow.fromarray(draw_mark("ring", np.random.default_rng(5))).save(tmp_path / "ring.png")
    choose(page, tmp_path / "ring.png", cards=1)
    assert "taken as one fossil, µm per px unknown" in page.inner_text(".summary")
    assert page.inner_text(".card .sentence").startswith("ring (")
    assert page.inner_text(".shares li >> nth=0").split("\n")[0] == "ring"
    page.keyboard.press("h")
    page.wait_for_selector(".card img[src*='/heat/0.jpg?taxon=ring']")
    picture = page.locator(".card figure img")
    assert picture.evaluate("async (image) => { await image.decode(); return image.naturalWidth; }") > 20
    page.get_by_role("button", name="disc").click()
    page.wait_for_selector(".card img[src*='taxon=disc']")
    page.fill(".mpp", "0,5")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=0.5 µm per px as given")
    page.select_option("select", "field")
    page.wait_for_selector("text=a field of view with 1 objects")


def test_an_image_is_pasted_or_dropped_and_a_bad_one_is_refused_in_words(page: Page) -> None:
    sink = io.BytesIO()
    Pillow.fromarray(draw_mark("disc", np.random.default_rng(5))).save(sink, "PNG")
    content = base64.b64encode(sink.getvalue()).decode()
    hostile = "<img src=x onerror=alert(1)>.png"
    for event in ("paste", "drop"):
        page.evaluate(SEND, [event, content, hostile])
        page.wait_for_selector(".card")
        assert hostile in page.inner_text(".summary b")
        page.evaluate(SEND, [event, base64.b64encode(b"no image").decode(), "bad.png"])
        page.wait_for_selector(".problem:has-text('bad.png')")
        assert "none of the formats" in page.inner_text(".problem")


SEND = """([kind, content, name]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: 'image/png' }));
  const event = kind === 'paste'
    ? new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true })
    : new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true });
  document.querySelector('main').dispatchEvent(event);
}"""
"""Pastes or drops a file."""
