"""Which slides there are, and the table that lists them."""

from fossilray.catalog.finding import find_slides
from fossilray.catalog.sites import describe_missing_sites
from fossilray.catalog.table import Catalog, read_catalog_file, write_catalog, write_refused
from fossilray.site_names import parse_name
from fossilray.slide_names import slide_id_for

__all__ = [
    "Catalog",
    "describe_missing_sites",
    "find_slides",
    "parse_name",
    "read_catalog_file",
    "slide_id_for",
    "write_catalog",
    "write_refused",
]
