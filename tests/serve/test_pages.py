"""The pages in a real browser: look, name, undo, walk from a crop to the slide, and lose nothing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from support.browser import chromium
from support.classified_run import predict
from support.small_run import MPP, WELL, commit_slide, write_small_run

from fossilray.core.types import Boxes
from fossilray.labels.label_set import LabelSet
from fossilray.store import RunStore

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
WIDTH, HEIGHT = 3200, 2400

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    folder = tmp_path_factory.mktemp("pages")
    store = write_small_run(folder / "run")
    slide = folder / "z.tif"
    with tifffile.TiffWriter(slide) as file:
        for step in (1, 4):
            shape = (-(-HEIGHT // step), -(-WIDTH // step), 3)
            file.write(
                np.full(shape, (226, 200, 160), np.uint8),
                tile=(256, 256),
                compression="zlib",
                photometric="rgb",
                resolution=(1e4 / MPP / step, 1e4 / MPP / step),
                resolutionunit="CENTIMETER",
                subfiletype=int(step > 1),
            )
    corners = np.random.default_rng(9).uniform((100, 100), (WIDTH - 300, HEIGHT - 300), (30, 2))
    boxes = Boxes(np.hstack([corners, corners + 120]).astype(np.float32), np.full(30, 0.9, np.float32))
    commit_slide(
        store,
        "z-2090",
        count=30,
        well=WELL,
        depth_m=2090.0,
        seed=9,
        boxes=boxes,
        path=str(slide),
        width=WIDTH,
        height=HEIGHT,
        bounds_x=0,
        bounds_y=0,
        bounds_width=WIDTH,
        bounds_height=HEIGHT,
        scan_id=None,
    )
    predict(store, "head")
    return store


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


class Served:
    """A server in a process of its own, that can be killed and started again on its port."""

    def __init__(self, run: RunStore, labels: Path) -> None:
        self._run, self.labels, self._port = run, labels, 0
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "support.pages_server",
                self._run.url,
                str(self.labels),
                "0.3",
                str(self._port),
            ],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT / "tests",
            env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        self._port = int(self.address.rstrip("/").rpartition(":")[2])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def names(self) -> dict[tuple[str, int | None], str]:
        """The names in the rounds of the label set."""
        found = LabelSet.open(self.labels).labels().consensus.values()
        return {(label.slide_id, label.object_id): label.occurrence.shown for label in found}


@pytest.fixture(scope="module")
def served(run: RunStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(run, tmp_path_factory.mktemp("pages-labels") / "labels")
    yield server
    server.kill()


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    complaints: list[str] = []
    foreign: list[str] = []
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on(
        "request", lambda request: foreign.append(request.url) if not _is_own(request.url, served) else None
    )
    opened.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    yield opened
    context.close()
    assert foreign == []
    # A request that meets a killed server, and a slide that is not there, are part of the tests.
    assert [text for text in complaints if "Failed to load resource" not in text] == []


def _is_own(url: str, served: Served) -> bool:
    return url.startswith((served.address, "data:", "blob:"))


def wait_saved(page: Page) -> None:
    page.wait_for_selector(".saving:text-is('all saved')")


def test_the_run_is_shown_and_hostile_names_are_text(page: Page, served: Served) -> None:
    page.goto(served.address)
    page.wait_for_selector("text=a-2030")
    assert page.inner_text(".figures").split("\n")[:2] == ["107", "objects"]
    assert "<script>alert('well')</script>" in page.inner_text("table >> nth=0")
    page.fill("input[type=search]", "z-20")
    assert page.locator("table >> nth=1").locator("tbody tr").count() == 1


def test_crops_are_named_by_keys_alone_and_undone(page: Page, served: Served) -> None:
    page.goto(f"{served.address}label?slide=a-2030")
    page.wait_for_selector(".crop.at")
    page.wait_for_selector(".hint:has-text('type a name')")
    page.keyboard.press("Enter")  # accepts the prediction
    accepted = page.locator(".crop").nth(0).locator(".name").inner_text()
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.type("b")
    page.keyboard.type("et")
    page.keyboard.press("Enter")
    page.keyboard.press("x")
    page.keyboard.press("w")
    page.keyboard.type("S")
    page.keyboard.type("piniferites ramosus")
    page.keyboard.press("Enter")
    page.keyboard.press("3")  # the digit that wood got
    page.keyboard.press(".")
    wait_saved(page)
    wait_rounds(page, served, 7)
    assert served.names() == {
        ("a-2030", 0): accepted,
        ("a-2030", 1): "Betula",
        ("a-2030", 2): "Betula",
        ("a-2030", 3): "wood",
        ("a-2030", 4): "Spiniferites ramosus",
        ("a-2030", 5): "wood",
        ("a-2030", 6): "wood",
    }
    page.keyboard.press("Control+z")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("d")
    wait_saved(page)
    wait_rounds(page, served, 6)
    page.goto(f"{served.address}label?status=labelled")
    page.wait_for_selector(".crop.labelled")
    assert page.locator(".crop").count() == 6
    assert "Betula" in page.inner_text(".left")


def test_a_bar_of_the_chart_leads_to_the_crops_it_counts(page: Page, served: Served) -> None:
    page.goto(served.address)
    page.click("table >> nth=0 >> text=chart >> nth=0")
    page.wait_for_selector(".chart svg .bar")
    assert {"Alnus", "Betula", "Corylus"} <= set(page.locator(".chart .taxon").all_text_contents())
    bars = page.locator(".chart a:has(.bar)[aria-label^=Alnus]")
    stated = bars.first.get_attribute("aria-label") or ""
    predicted = int(re.findall(r"(\d+) predicted", stated)[0])
    page.click("button:text-is('objects')")
    page.wait_for_selector(".chart svg .bar")
    page.wait_for_selector("button:text-is('objects')[aria-pressed=true]")
    bars.first.press("Enter")
    page.wait_for_selector(".crop")
    assert page.locator(".crop").count() >= predicted
    assert "predicted Alnus" in page.inner_text(".conditions")
    # A taxon that is labelled and never predicted leads to its labels.
    page.go_back()
    page.click(".chart a:has(.bar)[aria-label^=Spiniferites] >> nth=0")
    page.wait_for_selector(".crop.labelled, .crop.doubtful")


def test_a_query_is_typed_run_and_stands_in_the_address(page: Page, served: Served) -> None:
    page.goto(f"{served.address}query")
    page.fill(
        "#sql", "SELECT slide_id, object_id FROM objects WHERE slide_id = 'z-2090' ORDER BY ALL LIMIT 3"
    )
    page.press("#sql", "Control+Enter")
    page.wait_for_selector(".result table")
    assert page.locator(".result tbody tr").count() == 3
    assert "sql=SELECT" in page.url
    page.reload()
    page.click(".result a:text-is('2')")
    page.wait_for_selector("main.slide")
    page.go_back()
    page.fill("#sql", "DROP VIEW objects")
    page.click("button:text-is('Run')")
    page.wait_for_selector("[role=alert]:has-text('give one SELECT')")


def test_what_is_typed_while_the_server_is_down_arrives_later(page: Page, served: Served) -> None:
    page.goto(f"{served.address}label?slide=b-2050")
    page.wait_for_selector(".crop.at")
    page.wait_for_selector(".hint:has-text('type a name')")
    served.kill()
    for _ in range(5):
        page.keyboard.press("Enter")
    page.wait_for_selector("text=kept in this browser")
    served.start()
    wait_saved(page)
    wait_rounds(page, served, 5, slide="b-2050")
    assert {key for key in served.names() if key[0] == "b-2050"} == {("b-2050", n) for n in range(5)}


def test_a_crop_leads_to_its_place_on_the_slide_where_it_is_named_and_one_is_drawn(
    page: Page, served: Served
) -> None:
    page.goto(f"{served.address}label?slide=z-2090")
    page.wait_for_selector(".crop.at")
    page.keyboard.press("v")
    page.wait_for_selector(".osd canvas.boxes")
    wait_until(page, lambda: "zoom=" in page.url)
    page.wait_for_selector(".specimen .measures")
    assert "z-2090:0" in page.inner_text(".specimen")
    wait_until(page, lambda: page.evaluate(COLOURED))
    page.keyboard.press("Enter")
    wait_saved(page)
    page.keyboard.press("0")
    page.keyboard.press("m")
    area = page.locator(".draw").bounding_box()
    assert area is not None
    x, y = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 40)
    page.mouse.up()
    page.wait_for_selector(".picker")
    page.keyboard.type("azolla")
    page.keyboard.press("Enter")
    wait_saved(page)
    wait_rounds(page, served, 2, slide="z-2090")
    assert {("z-2090", 0), ("z-2090", None)} == {key for key in served.names() if key[0] == "z-2090"}
    assert re.search(r"\d (µm|mm)", page.inner_text(".scale"))
    page.keyboard.press("Control+z")
    wait_saved(page)
    wait_rounds(page, served, 1, slide="z-2090")


COLOURED = """() => {
  const canvas = document.querySelector('.osd canvas:not(.boxes)');
  const context = canvas && canvas.getContext('2d');
  if (!context) return false;
  const [r, g, b] = context.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data;
  return Math.abs(r - 226) < 12 && Math.abs(g - 200) < 12 && Math.abs(b - 160) < 12;
}"""
"""Whether the middle of the viewer has the colour of the slide."""


def wait_rounds(page: Page, served: Served, count: int, *, slide: str = "a-2030") -> None:
    """Wait until the rounds of the label set name so many objects of a slide."""
    wait_until(page, lambda: sum(key[0] == slide for key in served.names()) == count)


def wait_until(page: Page, is_so: Callable[[], bool]) -> None:
    for _ in range(150):
        if is_so():
            return
        page.wait_for_timeout(100)
    raise AssertionError("it did not come about within 15 s")
