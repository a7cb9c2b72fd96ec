"""Plates: pictures at full resolution, scale bars, letters, captions, in files for print."""

import base64
import io
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from support.cli_runner import invoke, run_command
from support.exported_run import Made, made

from fossilray.analysis.plates.caption import caption_text, compose_caption
from fossilray.analysis.plates.draw import set_lines
from fossilray.analysis.plates.layout import GAP_MM, Spot, lay_out_grid, lay_out_scaled, letters_of
from fossilray.analysis.plates.pictures import MARGIN, read_pictures
from fossilray.analysis.specimens.citation import Citation
from fossilray.analysis.specimens.slide_files import AvailableFiles
from fossilray.analysis.specimens.specimens import ChosenObject, find_chosen
from fossilray.slides.slide import open_slide

__all__ = ["made"]

NAMES = ["A-1:6", "A-1:7", "b-1:6", "c-1:6", "d-1:7"]


def do_not_overlap(spots: tuple[Spot, ...]) -> bool:
    return all(
        one.left + one.width <= other.left + 1e-6
        or other.left + other.width <= one.left + 1e-6
        or one.top + one.height <= other.top + 1e-6
        or other.top + other.height <= one.top + 1e-6
        for number, one in enumerate(spots)
        for other in spots[:number]
    )


@given(st.integers(1, 60), st.floats(60, 300), st.floats(60, 300))
def test_squares_of_a_plate_are_equal_apart_and_on_the_page(count: int, width: float, height: float) -> None:
    layout = lay_out_grid(count, width_mm=width, height_mm=height)
    assert len({round(spot.width, 9) for spot in layout.spots}) == 1
    assert do_not_overlap(layout.spots)
    assert all(spot.left >= -1e-6 and spot.left + spot.width <= width + 1e-6 for spot in layout.spots)
    assert layout.height_mm == pytest.approx(max(spot.top + spot.height for spot in layout.spots))
    assert layout.height_mm <= height + 1e-6


@given(
    st.lists(st.tuples(st.floats(5, 400), st.floats(5, 400)), min_size=1, max_size=30),
    st.floats(60, 300),
    st.floats(60, 300),
)
def test_pictures_of_a_common_scale_keep_their_proportions(
    sizes: list[tuple[float, float]], width: float, height: float
) -> None:
    layout = lay_out_scaled(sizes, width_mm=width, height_mm=height)
    assert layout.mm_per_um is not None
    for spot, (across, down) in zip(layout.spots, sizes, strict=True):
        assert (spot.width, spot.height) == pytest.approx(
            (across * layout.mm_per_um, down * layout.mm_per_um)
        )
    assert do_not_overlap(layout.spots)
    assert layout.height_mm <= max(height, GAP_MM * len(sizes)) + 1e-6


def test_letters_go_on_after_z() -> None:
    assert letters_of(28, "upper")[-3:] == ["Z", "AA", "AB"]
    assert letters_of(2, "lower") == ["a", "b"]
    assert letters_of(2, "numbers") == ["1", "2"]


def test_pictures_are_the_slides_pixels_with_what_surrounds_the_box(made: Made) -> None:
    (specimen,) = find_chosen(made.run, [ChosenObject("A-1:6")])
    for is_square in (True, False):
        (picture,) = read_pictures(made.run, [specimen], AvailableFiles(), is_square=is_square)
        assert picture.why_reduced is None
        left, top, right, bottom = specimen.box
        margin = MARGIN * max(right - left, bottom - top)
        height, width = picture.image.shape[:2]
        longest = max(right - left, bottom - top) + 2 * margin
        assert max(width, height) == pytest.approx(longest, abs=1)
        assert (width == height) == is_square
        assert picture.width_um == pytest.approx(width * specimen.slide.mpp)
        x, y = round((left + right - width) / 2), round((top + bottom - height) / 2)
        with open_slide(specimen.slide.path) as slide:
            expected = slide.read(0, x, y, width, height)
        # Half a pixel is rounded either way.
        assert np.abs(expected.astype(int) - picture.image).mean() < 3


def test_a_slide_that_is_not_available_gives_its_stored_crop_in_its_size(made: Made, tmp_path: Path) -> None:
    (specimen,) = find_chosen(made.run, [ChosenObject("A-1:6")])
    (picture,) = read_pictures(made.run, [specimen], AvailableFiles(tmp_path), is_square=False)
    assert picture.why_reduced is not None
    assert "one.mrxs" in picture.why_reduced
    assert picture.width_um == pytest.approx(specimen.width_um, rel=0.1)
    assert picture.height_um == pytest.approx(specimen.height_um, rel=0.1)


def test_a_file_of_the_same_name_that_is_another_scan_is_not_shown(made: Made, tmp_path: Path) -> None:
    from support.slides_on_disk import write_slide

    write_slide(tmp_path / "one.mrxs", size=1024)
    (specimen,) = find_chosen(made.run, [ChosenObject("A-1:6")])
    (picture,) = read_pictures(made.run, [specimen], AvailableFiles(tmp_path), is_square=True)
    assert picture.why_reduced is not None
    assert "another scan" in picture.why_reduced


def test_a_pdf_embeds_its_fonts_and_the_pixels_as_they_are(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "plate.pdf"
    output = run_command(
        "plate", made.run.url, *NAMES, "--out", out, "--scan-corner", 20, 4, "--title", "Plate 1"
    )
    content = out.read_bytes()
    assert content.startswith(b"%PDF")
    text = b"".join(_streams(content))
    fonts = set(re.findall(rb"/FontName /(\S+)", content + text))
    embedded = len(re.findall(rb"/FontFile2", content + text))
    assert fonts
    assert embedded >= len(fonts)
    (specimen,) = find_chosen(made.run, [ChosenObject(NAMES[0])])
    (picture,) = read_pictures(made.run, [specimen], AvailableFiles(), is_square=True)
    widths = {
        int(width) for width in re.findall(rb"/Subtype /Image[^>]*/Width (\d+)", content, re.DOTALL)
    } | {int(width) for width in re.findall(rb"/Width (\d+)", content)}
    assert picture.image.shape[1] in widths
    assert "5 specimens" in output


def test_an_svg_holds_paths_and_lossless_pictures(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "plate.svg"
    run_command("plate", made.run.url, *NAMES, "--out", out, "--scale", "common", "--letters", "numbers")
    text = out.read_text()
    assert "<text" not in text
    pictures = re.findall(r"data:image/png;base64,\s*([^\"]+)", text)
    assert len(pictures) == len(NAMES)
    specimens = find_chosen(made.run, [ChosenObject(name) for name in NAMES])
    expected = read_pictures(made.run, specimens, AvailableFiles(), is_square=False)
    for encoded, picture in zip(pictures, expected, strict=True):
        shown = np.asarray(Pillow.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))
        assert shown.shape == picture.image.shape
        assert (shown == picture.image).all() or (shown[::-1] == picture.image).all()
    first = out.read_bytes()
    run_command("plate", made.run.url, *NAMES, "--out", out, "--scale", "common", "--letters", "numbers")
    assert out.read_bytes() == first


def test_a_caption_states_taxon_slide_position_and_reading(made: Made, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen.csv"
    chosen.write_text("slide_id,object_id,taxon,remark\nA-1,6,Spiniferites cf. ramosus,holotype\nb-1,6,,\n")
    caption = tmp_path / "caption.txt"
    run_command(
        *("plate", made.run.url, "--specimens", chosen, "--scan-corner", 20, 4, "--out", tmp_path / "p.png"),
        *("--title", "Plate 1", "--caption-file", caption),
    )
    text = caption.read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert re.match(
        r"Plate 1\. A\. Spiniferites cf\. ramosus\. Slide A-1 \(object 6\), 6407/6-5, 2000 m, "
        r"2\d\.\d\d; \d\.\d\d mm, EF [A-Z]\d\d/\d, holotype\. B\. ",
        text,
    )
    assert "EF: England Finder." in text
    assert "Distances are from the left and the top edge of the slide" in text
    with Pillow.open(tmp_path / "p.png") as picture:
        assert picture.width == pytest.approx(170 / 25.4 * 600, abs=1)


def test_names_are_in_italics_without_qualifiers_and_authors_and_no_line_is_too_long(made: Made) -> None:
    taxon = "Spiniferites cf. ramosus (Ehrenberg 1838)"
    (specimen,) = find_chosen(made.run, [ChosenObject("A-1:6", taxon=taxon, source="t")])
    words = compose_caption(
        "", [Citation(specimen, None, None, None)] * 8, list("ABCDEFGH"), bar="20 µm", bars=8, reduced=[]
    )
    italic = {word.text for word in words if word.is_italic}
    assert italic == {"Spiniferites", "ramosus"}
    assert "Scale bars: 20 µm." in caption_text(words)
    lines = set_lines(words, width_mm=80)
    assert len(lines) > 3
    assert [word for line in lines for _, word in line.words] == words
    assert all(left < 80 for line in lines for left, _ in line.words)
    assert not any(line.words[-1][1].keeps_next for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "plate.tif"], "is none of .pdf, .svg, .png"),
        (["--out", "p.pdf", "--page", "30", "20"], "choose fewer, a larger --page, or give --caption-file"),
        (["--out", "p.pdf", "--columns", "2", "--scale", "common"], "--columns applies to --scale each"),
    ],
)
def test_a_plate_that_cannot_be_made_names_what_to_change(made: Made, words: list[str], message: str) -> None:
    result = invoke("plate", made.run.url, "A-1:6", *words)
    assert result.exit_code != 0
    assert message in str(result.exception)


def _streams(content: bytes) -> list[bytes]:
    found = []
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", content, re.DOTALL):
        try:
            found.append(zlib.decompress(stream))
        except zlib.error:
            continue
    return found
