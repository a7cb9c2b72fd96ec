"""Embeddings of a run as one matrix."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def embedding_matrix(table: pa.Table, dimension: int) -> NDArray[np.float16]:
    """The vectors (n, dimension) of a table of embeddings."""
    values: NDArray[np.float16] = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, dimension)
