"""Vectors as short codes in lists of neighbours, and the search among them; the only home of FAISS.

A vector of length 1 is turned onto its principal axes, put into the list of the nearest of some thousand centres, and
what is left of it is kept in 64 to 88 bytes by scalar quantisation. Inverted lists: Jegou et al. 2011 (Product
quantization for nearest neighbor search, section IV). docs/guide/search.md has the measurement by which product
quantisation was left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.search.coder_bytes import NoCoder, check_coder
from fossilray.core.errors import StoreError, UsageError

QUANTIZERS: Mapping[str, tuple[int, str]] = {
    "pca64-8bit": (64, "SQ8"),
    "pca96-6bit": (96, "SQ6"),
    "pca128-4bit": (128, "SQ4"),
    "pca176-4bit": (176, "SQ4"),
}
"""Principal axes that are kept, and how each number is written: 64, 72, 64 and 88 bytes a vector."""

TRIED_VECTORS, TRIED_QUERIES, TRIED_LISTS = 20_000, 200, 32
TRIED_NEIGHBOURS, TRIED_CANDIDATES = 10, 50
_FEWEST_A_LIST = 39
"""Vectors a centre is taught on; FAISS warns of fewer."""
_ROWS_AT_ONCE = 65_536
_WORTH_THREADS = 2 * 10**9


@dataclass(frozen=True)
class QuantizerTrial:
    """What a way of coding was worth on a part of the sample."""

    coder: str
    bytes: int
    recall: float
    """Of the 10 nearest by cosine, how many are among the 50 nearest by code."""


class VectorQuantizer:
    """A taught coder; holds no vectors."""

    def __init__(self, index: Any, name: str) -> None:
        faiss = _faiss()

        self.name = name
        self._index = index
        self._ivf = faiss.extract_index_ivf(index)

    @staticmethod
    def train(vectors: NDArray[np.float32], *, name: str, lists: int, seed: int) -> VectorQuantizer:
        """A coder of this name, taught on vectors (n, d) of length 1.

        lists: at most n / 39 of them are made.
        """
        faiss = _faiss()

        count, dimension = vectors.shape
        axes, bits = QUANTIZERS[name]
        lists = max(1, min(lists, count // _FEWEST_A_LIST))
        rotation = "" if dimension <= axes else f"PCA{axes},"
        # By squared distance, which of vectors of length 1 ranks as the cosine does; PCA moves the origin, so the
        # inner product would not.
        index = faiss.index_factory(dimension, f"{rotation}IVF{lists},{bits}", faiss.METRIC_L2)
        ivf = faiss.extract_index_ivf(index)
        ivf.cp.seed, ivf.cp.niter = seed, 12
        if rotation and count < dimension:
            # Of fewer vectors than dimensions FAISS finds too few axes, or none; each vector again changes no axis.
            vectors = np.resize(vectors, (dimension, dimension))
        with _threads(count * lists):
            index.train(np.ascontiguousarray(vectors))
        return VectorQuantizer(index, name)

    @staticmethod
    def from_bytes(content: bytes, *, name: str, dimension: int, lists: int, place: str) -> VectorQuantizer:
        """The coder that `to_bytes` gave.

        Raises:
            StoreError: these are other bytes, or those of a coder of another name, dimension or number of lists.
        """
        faiss = _faiss()

        try:
            if name not in QUANTIZERS:
                raise NoCoder(f"its name is {name!r:.40}, none of {', '.join(QUANTIZERS)}")
            axes, bits = QUANTIZERS[name]
            check_coder(content, axes=axes, bits=bits, dimension=dimension, lists=lists)
            return VectorQuantizer(faiss.deserialize_index(np.frombuffer(content, np.uint8)), name)
        # RuntimeError: what FAISS says of bytes of another version of itself.
        except (NoCoder, RuntimeError) as error:
            told = " ".join(str(error).split())[-160:]
            raise StoreError(f"{place} is no coder of an index ({told}); build the index anew") from None

    def to_bytes(self) -> bytes:
        """All that `encode` and `search` need; equal coders give equal bytes."""
        faiss = _faiss()

        content: bytes = faiss.serialize_index(self._index).tobytes()
        return content

    @property
    def lists(self) -> int:
        return int(self._ivf.nlist)

    @property
    def code_bytes(self) -> int:
        return int(self._ivf.code_size)

    @property
    def dimension(self) -> int:
        return int(self._index.d)

    def encode(self, vectors: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """The list of each of the vectors (n, d), and its code (n, code_bytes)."""
        faiss = _faiss()

        count = len(vectors)
        lists, codes = np.empty(count, np.int64), np.empty((count, self.code_bytes), np.uint8)
        with _threads():
            for first in range(0, count, _ROWS_AT_ONCE):
                part = slice(first, min(count, first + _ROWS_AT_ONCE))
                turned = self._turn(vectors[part])
                lists[part] = self._ivf.quantizer.search(turned, 1)[1][:, 0]
                self._ivf.encode_vectors(
                    len(turned),
                    faiss.swig_ptr(turned),
                    faiss.swig_ptr(lists[part]),
                    faiss.swig_ptr(codes[part]),
                )
        return lists, codes

    def nearest_lists(self, queries: NDArray[np.float32], probes: int) -> Probes:
        """Where to look for the neighbours of queries (q, d) of length 1: the nearest lists of each."""
        turned = self._turn(queries)
        with _threads():
            distance, lists = self._ivf.quantizer.search(turned, min(probes, self.lists))
        return Probes(turned, lists, distance)

    def _turn(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        faiss = _faiss()

        wide = np.ascontiguousarray(vectors, np.float32)
        if not isinstance(self._index, faiss.IndexPreTransform):
            return wide
        for number in range(self._index.chain.size()):
            wide = self._index.chain.at(number).apply(wide)
        return wide


@dataclass(frozen=True)
class Probes:
    """Queries as the coder sees them, the lists to look into, and how far these are."""

    turned: NDArray[np.float32]
    lists: NDArray[np.int64]
    distance: NDArray[np.float32]


class Lists:
    """Codes that were read, by list, to be searched by a coder."""

    def __init__(self, coder: VectorQuantizer) -> None:
        faiss = _faiss()

        self._owner = faiss.clone_index(coder._ivf)  # what `_ivf` shows dies with it
        self._ivf = faiss.downcast_index(self._owner)
        self._codes = faiss.ArrayInvertedLists(coder.lists, coder.code_bytes)
        self._ivf.replace_invlists(self._codes, False)

    def add(self, number: int, ids: NDArray[np.int64], codes: NDArray[np.uint8]) -> None:
        """Put codes (n, code_bytes) of these ids (n,) into a list."""
        faiss = _faiss()

        if len(ids):
            wide, narrow = np.ascontiguousarray(ids, np.int64), np.ascontiguousarray(codes)
            self._codes.add_entries(number, len(wide), faiss.swig_ptr(wide), faiss.swig_ptr(narrow))

    def search(self, probes: Probes, count: int, allowed: NDArray[np.uint8] | None) -> NDArray[np.int64]:
        """The ids (q, count) of the nearest codes, nearest first; -1 where there are no more.

        allowed: a bit for each id, the lowest of a byte first; None: all may be found.
        """
        faiss = _faiss()

        params = faiss.SearchParametersIVF(nprobe=probes.lists.shape[1])
        if allowed is not None:
            bits = np.ascontiguousarray(allowed)
            selector = faiss.IDSelectorBitmap(bits)  # held here, for the parameters do not hold it
            params.sel = selector
        asked = len(probes.turned)
        near, ids = np.empty((asked, count), np.float32), np.empty((asked, count), np.int64)
        pointer = faiss.swig_ptr
        with _threads():
            # Its comfortable form takes no parameters.
            self._ivf.search_preassigned_c(
                asked,
                pointer(probes.turned),
                count,
                pointer(probes.lists),
                pointer(probes.distance),
                pointer(near),
                pointer(ids),
                False,
                params,
            )
        return ids


def lists_for(objects: int) -> int:
    """How many lists serve so many objects best: about their square root, as a power of two."""
    return int(2 ** np.clip(np.round(np.log2(1.3 * max(objects, 1) ** 0.5)), 2, 17))


def compare_quantizers(vectors: NDArray[np.float32], *, seed: int) -> list[QuantizerTrial]:
    """What each of CODERS is worth on some vectors (n, d) of length 1; the best first, of equals the shorter.

    All lists are looked into, so that only the codes are judged.

    Raises:
        UsageError: there are too few vectors to tell.
    """
    drawn = np.random.default_rng(seed).permutation(len(vectors))[: TRIED_VECTORS + TRIED_QUERIES]
    asked = min(TRIED_QUERIES, len(drawn) // 10)
    queries, base = vectors[drawn[:asked]], vectors[drawn[asked:]]
    if len(base) < 3 * TRIED_CANDIDATES:
        raise UsageError(
            f"{len(vectors)} vectors are too few to choose a coder by; name one of {', '.join(QUANTIZERS)}"
        )
    best = np.argsort(-(queries @ base.T), axis=1)[:, :TRIED_NEIGHBOURS]
    trials = []
    for name in QUANTIZERS:
        coder = VectorQuantizer.train(base, name=name, lists=TRIED_LISTS, seed=seed)
        lists, codes = coder.encode(base)
        kept = Lists(coder)
        for number in np.unique(lists).tolist():
            rows = np.flatnonzero(lists == number)
            kept.add(number, rows, codes[rows])
        found = kept.search(coder.nearest_lists(queries, coder.lists), TRIED_CANDIDATES, None)
        hits = [len(np.intersect1d(*pair)) for pair in zip(found, best, strict=True)]
        trials.append(QuantizerTrial(name, coder.code_bytes, float(np.mean(hits)) / TRIED_NEIGHBOURS))
    return sorted(trials, key=lambda one: (-round(one.recall, 2), one.bytes))


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Vectors (n, d) of length 1; NaN where one has no direction."""
    wide = vectors.astype(np.float32)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    sound = np.isfinite(length) & (length > 0)
    return np.where(sound, wide / np.where(sound, length, 1), np.nan).astype(np.float32)


@contextmanager
def _threads(work: int = 0) -> Iterator[None]:
    """FAISS on one core, or for so many distances as are worth it on all that this process may use.

    Its idle threads spin, which on a machine that others use as well costs a hundred times what they gain.
    """
    faiss = _faiss()

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)) if work > _WORTH_THREADS else 1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _faiss() -> Any:
    """The library; its own notes on types are behind what it does.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise UsageError("an index needs FAISS; run `pip install fossilray[similar]`") from None
    return faiss
