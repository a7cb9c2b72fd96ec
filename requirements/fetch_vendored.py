"""Fetch the JavaScript that the pages of `fossilray serve` use, at fixed versions, from the npm registry.

    python requirements/fetch_vendored.py

The files lie in the package, because pages work offline. A test compares them with the digests below.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import urllib.request
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[1] / "fossilray" / "serve" / "static" / "vendor"


class Vendored(NamedTuple):
    """A file of an npm package."""

    package: str
    version: str
    path: str
    """In the package."""
    name: str
    """In FOLDER."""
    sha256: str


FILES = (
    Vendored(
        "openseadragon",
        "6.1.1",
        "build/openseadragon/openseadragon.min.js",
        "openseadragon.min.js",
        "14d587cd3ee7c4861f1a41077ce642029364a21029956ba635bd8fb1202cf9ad",
    ),
    Vendored(
        "openseadragon",
        "6.1.1",
        "LICENSE.txt",
        "openseadragon.LICENSE.txt",
        "17da96b26ac706d2cbd06d4555dedb43026782f4943faf0156fe7acf89454228",
    ),
    Vendored(
        "htm",
        "3.1.1",
        "preact/standalone.module.js",
        "htm-preact.module.js",
        "72284e8e9079c87817145df1110f74e8a2aa040b2fc384922e18dfcb46fc1fd7",
    ),
    Vendored(
        "htm",
        "3.1.1",
        "LICENSE",
        "htm.LICENSE.txt",
        "740725f7252e750af735d0028cc534970772f513331e9f68150fede8fb3ce00f",
    ),
    Vendored(
        "preact",
        "11.2.0",
        "LICENSE",
        "preact.LICENSE.txt",
        "1fe6958409c8c257a70c587a18b6f7f412b179b456630790d30b2ec9a8e4b7d4",
    ),
)


def main() -> None:
    """Fetch every file and check its digest."""
    for file in FILES:
        url = f"https://registry.npmjs.org/{file.package}/-/{file.package}-{file.version}.tgz"
        with (
            urllib.request.urlopen(url) as answer,
            tarfile.open(fileobj=io.BytesIO(answer.read())) as archive,
        ):
            member = archive.extractfile(f"package/{file.path}")
            assert member is not None, f"{url} has no {file.path}"
            content = member.read()
        assert hashlib.sha256(content).hexdigest() == file.sha256, f"{file.name} differs from its digest"
        (FOLDER / file.name).write_bytes(content)


if __name__ == "__main__":
    main()
