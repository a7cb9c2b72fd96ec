"""Vector quantizers and inverted lists. The only module that imports FAISS.

A unit vector is rotated onto its principal axes and assigned to the list of the nearest of some thousand centres; the
residual is stored in 64 to 88 bytes by scalar quantization. Inverted lists: Jegou et al. 2011 (Product quantization for
nearest neighbor search, section IV). docs/guide/search.md has the measurement that decided against product
quantization.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fossilray.analysis.search.quantizer_format import NotAQuantizer, check_quantizer
from fossilray.core.errors import StoreError, UsageError

QUANTIZERS: Mapping[str, tuple[int, str]] = {
    "pca64-8bit": (64, "SQ8"),
    "pca96-6bit": (96, "SQ6"),
    "pca128-4bit": (128, "SQ4"),
    "pca176-4bit": (176, "SQ4"),
}
"""Principal axes and bits per axis of each quantizer: 64, 72, 64 and 88 bytes per vector."""

TRIAL_VECTORS, TRIAL_QUERIES, TRIAL_LISTS = 20_000, 200, 32
TRIAL_NEIGHBOURS, TRIAL_CANDIDATES = 10, 50
_MIN_VECTORS_PER_LIST = 39
"""Training vectors per centre; FAISS warns if there are fewer."""
_BATCH_ROWS = 65_536
_MIN_THREADED_WORK = 2 * 10**9


@dataclass(frozen=True)
class QuantizerTrial:
    """The recall of a quantizer on a part of the sample."""

    coder: str
    """Name of the quantizer."""
    bytes: int
    recall: float
    """Share of the 10 nearest vectors by cosine that are among the 50 nearest by code."""


class VectorQuantizer:
    """A trained quantizer, without vectors."""

    def __init__(self, index: Any, name: str) -> None:
        faiss = _faiss()

        self.name = name
        self._index = index
        self._ivf = faiss.extract_index_ivf(index)

    @staticmethod
    def train(vectors: NDArray[np.float32], *, name: str, lists: int, seed: int) -> VectorQuantizer:
        """Train a quantizer on unit vectors (n, dimension).

        Args:
            name: one of QUANTIZERS.
            lists: number of lists, reduced to n / 39 if there are fewer vectors.
        """
        faiss = _faiss()

        count, dimension = vectors.shape
        axes, bits = QUANTIZERS[name]
        lists = max(1, min(lists, count // _MIN_VECTORS_PER_LIST))
        rotation = "" if dimension <= axes else f"PCA{axes},"
        # Squared distance ranks unit vectors as the cosine does. PCA moves the origin, so the inner product does not.
        index = faiss.index_factory(dimension, f"{rotation}IVF{lists},{bits}", faiss.METRIC_L2)
        ivf = faiss.extract_index_ivf(index)
        ivf.cp.seed, ivf.cp.niter = seed, 12
        if rotation and count < dimension:
            # With fewer vectors than dimensions FAISS finds too few axes; repeating the vectors does not change them.
            vectors = np.resize(vectors, (dimension, dimension))
        with _threads(count * lists):
            index.train(np.ascontiguousarray(vectors))
        return VectorQuantizer(index, name)

    @staticmethod
    def from_bytes(content: bytes, *, name: str, dimension: int, lists: int, path: str) -> VectorQuantizer:
        """Read a quantizer from the bytes of `to_bytes`. `path` names the file in messages.

        Raises:
            StoreError: the bytes are not a quantizer of this name, dimension and number of lists.
        """
        faiss = _faiss()

        try:
            if name not in QUANTIZERS:
                raise NotAQuantizer(f"its name is {name!r:.40}, not one of {', '.join(QUANTIZERS)}")
            axes, bits = QUANTIZERS[name]
            check_quantizer(content, axes=axes, bits=bits, dimension=dimension, lists=lists)
            return VectorQuantizer(faiss.deserialize_index(np.frombuffer(content, np.uint8)), name)
        # FAISS raises RuntimeError for bytes of another of its versions.
        except (NotAQuantizer, RuntimeError) as error:
            reason = " ".join(str(error).split())[-160:]
            raise StoreError(
                f"{path} is not the quantizer of an index ({reason}); build the index again in another folder"
            ) from None

    def to_bytes(self) -> bytes:
        """Serialise the quantizer. Equal quantizers give equal bytes."""
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
        """Return the list (n,) and the code (n, code_bytes) of each of n unit vectors (n, dimension)."""
        faiss = _faiss()

        count = len(vectors)
        lists, codes = np.empty(count, np.int64), np.empty((count, self.code_bytes), np.uint8)
        with _threads():
            for first in range(0, count, _BATCH_ROWS):
                batch = slice(first, min(count, first + _BATCH_ROWS))
                rotated = self._rotate(vectors[batch])
                lists[batch] = self._ivf.quantizer.search(rotated, 1)[1][:, 0]
                self._ivf.encode_vectors(
                    len(rotated),
                    faiss.swig_ptr(rotated),
                    faiss.swig_ptr(lists[batch]),
                    faiss.swig_ptr(codes[batch]),
                )
        return lists, codes

    def nearest_lists(self, queries: NDArray[np.float32], probes: int) -> Probes:
        """Return the `probes` nearest lists of each of q unit vectors (q, dimension)."""
        rotated = self._rotate(queries)
        with _threads():
            distance, lists = self._ivf.quantizer.search(rotated, min(probes, self.lists))
        return Probes(rotated, lists, distance)

    def _rotate(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        faiss = _faiss()

        wide = np.ascontiguousarray(vectors, np.float32)
        if not isinstance(self._index, faiss.IndexPreTransform):
            return wide
        for number in range(self._index.chain.size()):
            wide = self._index.chain.at(number).apply(wide)
        return wide


@dataclass(frozen=True)
class Probes:
    """Queries after rotation, the lists to search for each, and the distances of the lists' centres."""

    rotated: NDArray[np.float32]
    """(q, axes)"""
    lists: NDArray[np.int64]
    """(q, probes)"""
    distance: NDArray[np.float32]
    """(q, probes)"""


class InvertedLists:
    """Codes in memory, by list, that a quantizer can search."""

    def __init__(self, quantizer: VectorQuantizer) -> None:
        faiss = _faiss()

        self._owner = faiss.clone_index(quantizer._ivf)  # owns the memory of `_ivf`
        self._ivf = faiss.downcast_index(self._owner)
        self._codes = faiss.ArrayInvertedLists(quantizer.lists, quantizer.code_bytes)
        self._ivf.replace_invlists(self._codes, False)

    def add(self, number: int, ids: NDArray[np.int64], codes: NDArray[np.uint8]) -> None:
        """Add ids (n,) and codes (n, code_bytes) to a list."""
        faiss = _faiss()

        if len(ids):
            wide, narrow = np.ascontiguousarray(ids, np.int64), np.ascontiguousarray(codes)
            self._codes.add_entries(number, len(wide), faiss.swig_ptr(wide), faiss.swig_ptr(narrow))

    def search(self, probes: Probes, count: int, bits: NDArray[np.uint8] | None) -> NDArray[np.int64]:
        """Return the ids (q, count) of the nearest codes, the nearest first; -1 where there are fewer.

        Args:
            bits: one bit for each id that may be found, the lowest bit of a byte first; None: all.
        """
        faiss = _faiss()

        params = faiss.SearchParametersIVF(nprobe=probes.lists.shape[1])
        if bits is not None:
            bits = np.ascontiguousarray(bits)
            selector = faiss.IDSelectorBitmap(
                bits
            )  # a reference is kept here, because the parameters keep none
            params.sel = selector
        queries = len(probes.rotated)
        near, ids = np.empty((queries, count), np.float32), np.empty((queries, count), np.int64)
        pointer = faiss.swig_ptr
        with _threads():
            # search_preassigned takes no parameters.
            self._ivf.search_preassigned_c(
                queries,
                pointer(probes.rotated),
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
    """Return the number of lists for an index: about the square root of its objects, as a power of two."""
    return int(2 ** np.clip(np.round(np.log2(1.3 * max(objects, 1) ** 0.5)), 2, 17))


def compare_quantizers(vectors: NDArray[np.float32], *, seed: int) -> list[QuantizerTrial]:
    """Measure the recall of each quantizer on a sample of unit vectors (n, dimension).

    All lists are searched, so that only the codes are compared. The result is sorted by recall to 0.01, then by bytes.

    Raises:
        UsageError: there are too few vectors.
    """
    sample = np.random.default_rng(seed).permutation(len(vectors))[: TRIAL_VECTORS + TRIAL_QUERIES]
    query_count = min(TRIAL_QUERIES, len(sample) // 10)
    queries, base = vectors[sample[:query_count]], vectors[sample[query_count:]]
    if len(base) < 3 * TRIAL_CANDIDATES:
        raise UsageError(
            f"{len(vectors)} vectors are too few to compare quantizers; give --quantizer, one of "
            f"{', '.join(QUANTIZERS)}"
        )
    nearest = np.argsort(-(queries @ base.T), axis=1)[:, :TRIAL_NEIGHBOURS]
    trials = []
    for name in QUANTIZERS:
        quantizer = VectorQuantizer.train(base, name=name, lists=TRIAL_LISTS, seed=seed)
        lists, codes = quantizer.encode(base)
        inverted = InvertedLists(quantizer)
        for number in np.unique(lists).tolist():
            rows = np.flatnonzero(lists == number)
            inverted.add(number, rows, codes[rows])
        candidates = inverted.search(
            quantizer.nearest_lists(queries, quantizer.lists), TRIAL_CANDIDATES, None
        )
        hits = [len(np.intersect1d(*pair)) for pair in zip(candidates, nearest, strict=True)]
        trials.append(QuantizerTrial(name, quantizer.code_bytes, float(np.mean(hits)) / TRIAL_NEIGHBOURS))
    return sorted(trials, key=lambda trial: (-round(trial.recall, 2), trial.bytes))


@contextmanager
def _threads(work: int = 0) -> Iterator[None]:
    """Limit FAISS to one thread, or to the cores of this process if `work`, a number of distances, is large.

    Idle threads of FAISS spin, which on a shared machine costs far more time than they save.
    """
    faiss = _faiss()

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)) if work > _MIN_THREADED_WORK else 1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _faiss() -> Any:
    """Import FAISS, untyped because its type stubs lack what is used here.

    Raises:
        UsageError: FAISS is not installed.
    """
    try:
        import faiss
    except ImportError:
        raise UsageError("an index needs FAISS; run `pip install fossilray[similar]`") from None
    return faiss
