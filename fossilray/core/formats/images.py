"""Image files, decoded with a bound on the number of pixels that they claim."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fossilray.core.formats.file_role import FileRole
from fossilray.core.formats.regular_file import open_regular


def decode_image(image: Path | bytes, role: FileRole, *, most_px: int) -> NDArray[np.uint8]:
    """Decode an image file, or its content, as (H, W, 3) uint8 RGB.

    Raises:
        role.error: it cannot be decoded, or claims more than most_px pixels.
    """
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with ExitStack() as held:
            source = (
                io.BytesIO(image) if isinstance(image, bytes) else held.enter_context(open_regular(image))
            )
            file = held.enter_context(Pillow.open(source))
            width, height = file.size
            if width * height > most_px:
                raise role.damaged(
                    f"it claims {width} x {height} px, more than the {most_px / 1e6:.0f} megapixels that it may have"
                )
            return np.asarray(file.convert("RGB"))
    except UnidentifiedImageError:
        # Pillow's message names the address of the buffer, which differs each time.
        raise role.damaged("it is not in a known image format") from None
    # Pillow's own limit raises DecompressionBombError; its readers raise the others for damaged headers.
    except (
        OSError,
        Pillow.DecompressionBombError,
        SyntaxError,
        ValueError,
        TypeError,
        LookupError,
        OverflowError,
        EOFError,
        struct.error,
        zlib.error,
    ) as error:
        raise role.damaged(f"it cannot be decoded ({error})") from None
