"""Occurrences: what an annotator states about one object, such as its name as written, qualifier and situation."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, get_args

from fossilray.core.config.choices import TaxonRank
from fossilray.core.text import strip_control_characters

Qualifier = Literal["cf.", "aff.", "?", "sp.", "indet."]
Situation = Literal["in place", "reworked", "caved", "contaminant"]
Kind = Literal[
    "fossil",
    "wood",
    "cuticle",
    "amorphous matter",
    "mineral",
    "bubble",
    "dirt",
    "several objects",
    "part of an object",
    "no object",
]
"""`no object`: the box is a false detection."""
SpecimenRole = Literal["marker", "index"]
"""`marker`: a grain of the spike that was added to the sample; `index`: a specimen to cite or to figure."""

QUALIFIERS: tuple[Qualifier, ...] = get_args(Qualifier)
SITUATIONS: tuple[Situation, ...] = get_args(Situation)
OBJECT_KINDS: tuple[Kind, ...] = get_args(Kind)
SPECIMEN_ROLES: tuple[SpecimenRole, ...] = get_args(SpecimenRole)

KINDS_WITHOUT_TAXON: tuple[Kind, ...] = ("amorphous matter", "mineral", "bubble", "dirt", "no object")

_DOUBTS: tuple[Qualifier, ...] = ("cf.", "aff.", "?")
_QUALIFIER_OF_WORD: dict[str, Qualifier] = {
    **{"cf": "cf.", "aff": "aff.", "?": "?"},
    **{"sp": "sp.", "spp": "sp.", "indet": "indet."},
}
_TOKEN = re.compile(r"\?|[^\s?]+")
_FILLERS_OF_INDET = ("gen", "et", "sp", "spp")
_AUTHORITY = re.compile(
    r"(?P<name>[^\W\d_][\w-]*(?: [^\W\dA-Z_][\w-]*)*) \(?[A-Z][^\d]*\b(1[789]|20)\d\d[a-z]?\)?.*"
)


@dataclass(frozen=True)
class ParsedTaxonName:
    """A name without its qualifier."""

    taxon: str
    """Empty if the text names no taxon."""
    qualifier: Qualifier | None
    definite_taxon: str
    """The part of the taxon that the qualifier leaves definite: the genus of `Spiniferites cf. ramosus`."""


@dataclass(frozen=True)
class Occurrence:
    """What an annotator states about one object."""

    written: str
    """The name as written; empty if only the kind is stated."""
    taxon: str
    """The name without its qualifier, by `parse_taxon_name`; empty if there is none."""
    qualifier: Qualifier | None = None
    rank: TaxonRank | None = None
    """Rank of the taxon where the annotator states it."""
    kind: Kind = "fossil"
    situation: Situation | None = None
    """None: not stated."""
    specimen: SpecimenRole | None = None
    is_unsure: bool = False
    remark: str = ""

    @property
    def name(self) -> str:
        """The kind of what is not a whole fossil, else the taxon; empty for a fossil without a name."""
        return self.taxon if self.kind == "fossil" else self.kind

    @property
    def shown(self) -> str:
        """The name as written, and the kind if it is not a fossil, for messages."""
        if self.kind == "fossil":
            return self.written
        return f"{self.written} ({self.kind})" if self.taxon else self.kind

    @property
    def definite_taxon(self) -> str:
        """The part of the taxon that is definite; empty if the annotator is unsure.

        A qualifier in a column of its own qualifies the last word of the name.
        """
        if self.is_unsure:
            return ""
        parsed = parse_taxon_name(self.written)
        if parsed.qualifier is None and self.qualifier in _DOUBTS:
            return " ".join(_words_of(self.taxon)[:-1])
        return parsed.definite_taxon


def parse_taxon_name(text: str) -> ParsedTaxonName:
    """Split a name as palynologists write it into taxon and qualifier.

    The qualifiers cf., aff., ?, sp. (also spp.) and indet. are recognised with or without their full stop. Of several,
    the first of cf., aff. and ? counts, else the first. These three qualify the word that follows, or the one that
    they stand behind, and with it all finer words. `sp.` with a designation (`Deflandrea sp. A`) is the name of an
    informal species and stays in the taxon. `gen. et sp.` before `indet.`, the initial of a genus that stands before
    it already, and an authority with a year are left out.
    """
    cleaned = clean_text(text)
    tokens = list(_TOKEN.finditer(cleaned))
    bare = [token[0].rstrip(".").casefold() for token in tokens]
    is_indet = "indet" in bare
    words: list[str] = []
    qualifiers: list[Qualifier] = []
    definite = len(tokens)
    for i, token in enumerate(tokens):
        qualifier = _QUALIFIER_OF_WORD.get(bare[i])
        if is_indet and bare[i] in _FILLERS_OF_INDET:
            continue
        if qualifier is None:
            if not (words and re.fullmatch(r"[^\W\d_]\.", token[0]) and words[0].startswith(token[0][0])):
                words.append(token[0])
            continue
        qualifiers.append(qualifier)
        designation = cleaned[token.end() :]
        if qualifier == "sp." and words and bare[i + 1 :] and bare[i + 1] not in _QUALIFIER_OF_WORD:
            if "?" in designation:
                qualifiers.append("?")
                definite = min(definite, len(words))
            words.append(" ".join(["sp.", *designation.replace("?", " ").split()]))
            break
        if qualifier in _DOUBTS:
            # A question mark stands before the next word only if nothing but a blank is before it.
            is_before = qualifier != "?" or not token.start() or cleaned[token.start() - 1].isspace()
            has_next = i + 1 < len(tokens)
            definite = min(definite, max(len(words) - (0 if is_before and has_next else 1), 0))
    taxon = " ".join(words)
    if (authority := _AUTHORITY.fullmatch(taxon)) is not None:
        taxon = authority["name"]
    counted = next((sign for sign in qualifiers if sign in _DOUBTS), qualifiers[0] if qualifiers else None)
    return ParsedTaxonName(taxon, counted, taxon if counted not in _DOUBTS else " ".join(words[:definite]))


def genus_and_species(taxon: str) -> tuple[str, str]:
    """Return genus and species by the form of a name; the species is empty if the name has no epithet.

    The form of a species is a capitalised word and an epithet in lower case, or `sp.` with a designation.
    """
    words = _words_of(taxon)
    if len(words) > 1 and words[0][:1].isupper() and words[1][:1].islower():
        return words[0], taxon
    return taxon, ""


def clean_text(text: str) -> str:
    """Return a text in the form in which names are compared: composed (NFC), stripped, printable, with plain blanks."""
    blanks = "".join(" " if letter.isspace() else letter for letter in text)
    return strip_control_characters(unicodedata.normalize("NFC", blanks)).strip()


def _words_of(taxon: str) -> list[str]:
    """Return the words of a taxon; `sp. A` is one."""
    name, mark, designation = taxon.partition(" sp. ")
    return [*name.split(), *([f"sp. {designation}"] if mark else [])]
