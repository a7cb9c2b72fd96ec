"""Sizes that the page headers of a Parquet file claim, read before Arrow allocates memory for a page.

The metadata at the end of a file claim the size of each column, and a page's own header claims that of the page. Arrow
trusts the header: a file of a few hundred bytes may have it allocate 2 GiB.

Metadata and headers are structs in Thrift's compact protocol
(https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md), defined in
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift. They are parsed here because
PyArrow ends the process over a column whose statistics are damaged (`FileMetaData.row_group(i).column(j)`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Wanted = Mapping[int, "Wanted | None"]
"""Fields of a struct to keep, by id: None for a whole number, else the fields of a struct or of a list of structs."""

_VALUES, _COMPRESSED_BYTES, _DATA_OFFSET, _DICTIONARY_OFFSET = 5, 7, 9, 11
_COLUMN: Wanted = {3: {_VALUES: None, _COMPRESSED_BYTES: None, _DATA_OFFSET: None, _DICTIONARY_OFFSET: None}}
_FILE: Wanted = {4: {1: _COLUMN}}
"""FileMetaData.row_groups, RowGroup.columns, ColumnChunk.meta_data."""

_UNCOMPRESSED_SIZE, _COMPRESSED_SIZE = 2, 3
_PAGE: Wanted = {_UNCOMPRESSED_SIZE: None, _COMPRESSED_SIZE: None}
"""Fields of PageHeader."""

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_MAX_DEPTH = 16
"""Structs inside each other; the metadata of a file have 6 levels."""

_TAIL_BYTES = 8
"""Length of the metadata in 4 bytes, then PAR1."""


def page_sizes(content: bytes) -> Iterator[int]:
    """Yield the uncompressed size in bytes that each page of a Parquet file claims.

    Raises:
        ValueError: the metadata or a header cannot be parsed, or a page lies outside the file.
    """
    end = len(content) - _TAIL_BYTES
    start = end - int.from_bytes(content[end : end + 4], "little")
    if not 0 < start <= end:
        raise ValueError("its metadata lie outside the file")
    for group in _Parser(content, start).struct(_FILE).get(4, []):
        for column in group.get(1, []):
            yield from _column_page_sizes(content, column.get(3, {}))


def _column_page_sizes(content: bytes, column: Mapping[int, int]) -> Iterator[int]:
    offsets = [column[field] for field in (_DATA_OFFSET, _DICTIONARY_OFFSET) if column.get(field)]
    if not offsets and column.get(_VALUES) == 0 and column.get(_COMPRESSED_BYTES) == 0:
        return  # no page: a column of a table without rows
    if not offsets or _COMPRESSED_BYTES not in column:
        raise ValueError("its metadata do not state where a column lies")
    position = min(offsets)
    end = position + column[_COMPRESSED_BYTES]
    if not 0 < position <= end <= len(content):
        raise ValueError("the pages of a column lie outside the file")
    while position < end:
        parser = _Parser(content, position)
        sizes = parser.struct(_PAGE)
        if len(sizes) != len(_PAGE) or min(sizes.values()) < 0:
            raise ValueError("a page does not state its size")
        yield sizes[_UNCOMPRESSED_SIZE]
        position = parser.position + sizes[_COMPRESSED_SIZE]


class _Parser:
    """Parses structs from a position on, and moves the position behind them."""

    def __init__(self, content: bytes, position: int) -> None:
        self._content = content
        self.position = position

    def struct(self, wanted: Wanted, depth: int = 0) -> dict[int, Any]:
        """The wanted fields of a struct; the others are skipped."""
        if depth > _MAX_DEPTH:
            raise ValueError("its metadata are nested too deeply")
        fields: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            step, kind = divmod(head, 16)
            field = field + step if step else self._signed()
            if field not in wanted:
                self._skip(kind, depth)
            elif (inner := wanted[field]) is None:
                if kind not in (_I16, _I32, _I64):
                    raise ValueError("a field of its metadata is not a whole number")
                fields[field] = self._signed()
            elif kind == _STRUCT:
                fields[field] = self.struct(inner, depth + 1)
            elif kind == _LIST:
                count, element = self._list_head()
                if element != _STRUCT:
                    raise ValueError("a list in its metadata does not hold structs")
                fields[field] = [self.struct(inner, depth + 1) for _ in range(count)]
            else:
                raise ValueError("a field of its metadata is not a struct")
        return fields

    def _skip(self, kind: int, depth: int) -> None:
        if kind in (_TRUE, _FALSE):
            return
        if kind in (_I16, _I32, _I64):
            self._varint()
        elif kind in (_BYTE, _DOUBLE):
            self.position += 1 if kind == _BYTE else 8
        elif kind == _BINARY:
            length = self._varint()
            self.position += length
        elif kind in (_LIST, _SET):
            count, element = self._list_head()
            self._skip_elements(count, (element,), depth)
        elif kind == _MAP:
            if count := self._varint():
                self._skip_elements(count, divmod(self._byte(), 16), depth)
        elif kind == _STRUCT:
            self.struct({}, depth + 1)
        else:
            raise ValueError(f"its metadata have a field of the unknown type {kind}")

    def _skip_elements(self, count: int, kinds: tuple[int, ...], depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ValueError("its metadata are nested too deeply")
        for _ in range(count):
            for kind in kinds:
                # A boolean is a byte here, and part of the field's head in a struct.
                self._skip(_BYTE if kind in (_TRUE, _FALSE) else kind, depth + 1)

    def _list_head(self) -> tuple[int, int]:
        """Number and type of the elements of a list; each takes a byte or more."""
        count, element = divmod(self._byte(), 16)
        count = self._varint() if count == 15 else count
        if count > len(self._content) - self.position:
            raise ValueError("its metadata claim a list longer than the file")
        return count, element

    def _byte(self) -> int:
        if self.position >= len(self._content):
            raise ValueError("its metadata end behind the file")
        self.position += 1
        return self._content[self.position - 1]

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise ValueError("a number in its metadata has more than 64 bits")

    def _signed(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
