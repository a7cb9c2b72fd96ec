"""Catalog of slides: discovery on a disk or in an object store, and the table that lists them."""

from fossilray.core.site_names import parse_name
from fossilray.core.slide_names import describe_missing_sites, slide_id_for
from fossilray.slides.catalog.fields import describe_missing_mpp, fill_in_mpp
from fossilray.slides.catalog.find import find_slides
from fossilray.slides.catalog.table import Catalog, read_catalog_file
from fossilray.slides.catalog.write import check_catalog_name, write_catalog, write_refused

__all__ = [
    "Catalog",
    "check_catalog_name",
    "describe_missing_mpp",
    "describe_missing_sites",
    "fill_in_mpp",
    "find_slides",
    "parse_name",
    "read_catalog_file",
    "slide_id_for",
    "write_catalog",
    "write_refused",
]
