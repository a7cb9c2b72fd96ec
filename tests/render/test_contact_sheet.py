"""Contact sheets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from fossilray.core.errors import UsageError
from fossilray.render.contact_sheet import GROUND, INK, Plate, tile_grid, wrap_text, write_sheet


def test_cells_stand_row_by_row_with_gaps_between_them() -> None:
    cells = np.stack([np.full((4, 6, 3), value, np.uint8) for value in (10, 20, 30)])
    grid = tile_grid(cells, columns=2, gap_px=1)
    assert grid.shape == (9, 13, 3)
    assert [grid[0, 0, 0], grid[0, 7, 0], grid[5, 0, 0]] == [10, 20, 30]
    assert grid[4, 0].tolist() == grid[5, 7].tolist() == list(GROUND)
    assert tile_grid(cells[:1], columns=8, gap_px=3).shape == (4, 6, 3)


def test_a_caption_is_cut_to_its_width_and_has_no_control_characters() -> None:
    plate = Plate(120, 20)
    plate.add_text("a very long name of a \x1b[31mgenus", 0, 0, size=10, width=60)
    image = plate.to_image()
    assert (image[:, 60:] == GROUND).all()
    assert (image[:, :60] != GROUND).any()
    plate.add_image(np.zeros((5, 5, 3), np.uint8), 100, 10)
    assert not plate.to_image()[10:15, 100:105].any()
    assert INK != GROUND


def test_text_is_broken_between_words_and_within_a_word_that_is_too_long() -> None:
    lines = wrap_text("one two " + "x" * 40, size=12, width=80)
    assert lines[0].startswith("one two")
    assert len(lines) > 2
    assert "".join(lines).replace(" ", "") == "onetwo" + "x" * 40


@pytest.mark.parametrize("suffix", [".html", ".PNG", ".jpg", ".jpeg"])
def test_only_what_the_suffix_names_is_made(tmp_path: Path, suffix: str) -> None:
    made: list[str] = []

    def page() -> str:
        made.append("page")
        return "<html>"

    def picture() -> np.ndarray:
        made.append("picture")
        return np.zeros((4, 4, 3), np.uint8)

    out = tmp_path / f"sheet{suffix}"
    write_sheet(out, page=page, picture=picture, option="--sheet")
    if suffix == ".html":
        assert (made, out.read_text()) == (["page"], "<html>")
    else:
        assert (made, Pillow.open(out).size) == (["picture"], (4, 4))


def test_another_suffix_is_refused_with_the_option_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--out .*sheet\.pdf is neither \.html nor \.png nor \.jpg"):
        write_sheet(tmp_path / "sheet.pdf", page=lambda: "", picture=lambda: np.zeros(0), option="--out")
