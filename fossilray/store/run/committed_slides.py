"""The committed slides of a run: where their objects are, and what is known of each."""

from __future__ import annotations

from typing import Protocol

import pyarrow as pa

from fossilray.store.files.base import Files
from fossilray.store.run import summaries
from fossilray.store.run.layout import OBJECTS, slide_of
from fossilray.store.run.left_out import LeftOut
from fossilray.store.run.objects_file import Footer, read_stored_footer


class CommittedSlides(Protocol):
    """What a run keeps in one file per slide, and a compacted dataset in tables of many slides."""

    def committed(self) -> set[str]:
        """slide_ids of all committed slides, over all wells."""
        ...

    def committed_files(self) -> dict[str, str]:
        """The objects file of each committed slide, relative to the directory, by slide_id."""
        ...

    def footer(self, slide_id: str) -> Footer | None:
        """Summary, array checksums and provenance of a slide; None if it is not committed."""
        ...

    def summaries_table(self) -> tuple[pa.Table, frozenset[str]]:
        """SLIDES_SCHEMA, one row per committed slide by slide_id; and the slides whose objects files are gone."""
        ...

    def rebuild_summaries(self) -> int:
        """Write the summaries again from the footers of all committed slides, and return their number."""
        ...


class RunSlides:
    """`CommittedSlides` of a run directory: one objects file per slide, and slides/ with their summaries."""

    def __init__(self, files: Files, left_out: LeftOut) -> None:
        """left_out: takes damaged parts of slides/ and damaged footers."""
        self._files = files
        self._left_out = left_out

    def committed(self) -> set[str]:
        return set(self.committed_files())

    def committed_files(self) -> dict[str, str]:
        return {slide_of(path): path for path in self._files.find(OBJECTS) if path.endswith(".parquet")}

    def footer(self, slide_id: str) -> Footer | None:
        path = self.committed_files().get(slide_id)
        return None if path is None else read_stored_footer(self._files, path)

    def summaries_table(self) -> tuple[pa.Table, frozenset[str]]:
        return summaries.summaries_table(self._files, self.committed_files, self._left_out)

    def rebuild_summaries(self) -> int:
        return summaries.rebuild_summaries(self._files, self.committed_files())
