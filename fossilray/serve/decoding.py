"""Decoding of uploads in a process of its own for each, which is started ahead and killed when it takes too long."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np

from fossilray.analysis.identify.photograph import Photograph
from fossilray.core.errors import UsageError
from fossilray.slides.limits import LARGEST_ACCEPTED_TILE_PX

_WITHIN_S = 40.0
_MOST_LINE_BYTES = 10_000


class UploadDecoder:
    """Starts a process for the next upload while none is waited for."""

    def __init__(self, *, within_s: float = _WITHIN_S) -> None:
        self._within_s = within_s
        self._guard = threading.Lock()
        self._next: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process of the next upload."""
        with self._guard:
            if self._next is None:
                self._next = _start()

    def decode(self, content: bytes, *, name: str, mpp: float | None) -> Photograph:
        """Decode an upload. name: for messages and results.

        Raises:
            UsageError: it cannot be decoded, or not within the bounds.
        """
        with self._guard:
            process, self._next = self._next or _start(), None
        deadline = threading.Timer(self._within_s, process.kill)
        deadline.start()
        try:
            return _exchange(process, content, name, mpp)
        finally:
            deadline.cancel()
            _end(process)
            self.start()

    def close(self) -> None:
        """End the process that waits."""
        with self._guard:
            if self._next is not None:
                _end(self._next)
                self._next = None


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "fossilray.serve.decode_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _exchange(process: subprocess.Popen[bytes], content: bytes, name: str, mpp: float | None) -> Photograph:
    assert process.stdin is not None, "it is a pipe"
    assert process.stdout is not None, "it is a pipe"
    request = json.dumps({"name": name, "mpp": mpp, "bytes": len(content)}).encode()
    # A process that died reads nothing, and writes nothing below.
    with suppress(BrokenPipeError):
        process.stdin.write(request + b"\n" + content)
        process.stdin.flush()
    line = process.stdout.readline(_MOST_LINE_BYTES)
    if not line:
        raise _beyond_bounds(name)
    described = json.loads(line)
    if "error" in described:
        raise UsageError(described["error"])
    width, height = int(described["width"]), int(described["height"])
    if not 0 < width * height <= LARGEST_ACCEPTED_TILE_PX:
        raise _beyond_bounds(name)
    pixels = process.stdout.read(width * height * 3)
    if len(pixels) != width * height * 3:
        raise _beyond_bounds(name)
    return Photograph(
        name,
        np.frombuffer(pixels, np.uint8).reshape(height, width, 3),
        described["um_per_px"],
        described["um_per_px_from"],
        described["unused"],
    )


def _beyond_bounds(name: str) -> UsageError:
    return UsageError(
        f"{name} could not be decoded within the memory and the time that an upload may take; give a smaller image"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    process.wait()
