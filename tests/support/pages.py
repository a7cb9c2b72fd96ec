"""What every page of fossilray keeps to."""

from __future__ import annotations

import re


def check_page(page: str) -> None:
    """Nothing runs, nothing is fetched, and names with markup are shown as text."""
    assert "<script" not in page
    assert "alert(&#39;Ø&#39;)" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
