"""The process that decodes one uploaded image, with bounds on memory and time, and writes its pixels to its output.

Decoders of images are large programs in C, and the upload is of anyone. The process reads one line of JSON (name, mpp,
bytes) and the content from its standard input, and writes one line of JSON and the pixels to its standard output.
"""

from __future__ import annotations

import json
import resource
import sys

import numpy as np

from fossilray.analysis.identify.photograph import decode_photograph
from fossilray.core.errors import FossilrayError

MOST_MEMORY_BYTES = 3 * 2**30
MOST_CPU_S = 20


def decode_one() -> None:
    """Decode the image on standard input."""
    for limit, most in (
        (resource.RLIMIT_AS, MOST_MEMORY_BYTES),
        (resource.RLIMIT_CPU, MOST_CPU_S),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    line = sys.stdin.buffer.readline()
    if not line:
        return  # the server ended
    request = json.loads(line)
    content = sys.stdin.buffer.read(request["bytes"])
    try:
        photograph = decode_photograph(content, name=request["name"], mpp=request["mpp"])
    except FossilrayError as error:
        sys.stdout.buffer.write(json.dumps({"error": str(error)}).encode() + b"\n")
        return
    described = {
        "width": photograph.width,
        "height": photograph.height,
        "um_per_px": photograph.um_per_px,
        "um_per_px_from": photograph.um_per_px_from,
        "unused": photograph.unused,
    }
    sys.stdout.buffer.write(json.dumps(described).encode() + b"\n")
    sys.stdout.buffer.write(np.ascontiguousarray(photograph.pixels).data)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    decode_one()
