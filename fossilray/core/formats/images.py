"""Image files that others made, decoded with a bound on the pixels that they claim."""

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
    """The pixels (H, W, 3) RGB of an image file, or of what it holds.

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
        # Pillow would name the buffer, by an address that is another each time.
        raise role.damaged("it is in no image format") from None
    # Pillow's own limit is an error of another family; its readers raise these over damaged headers.
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
