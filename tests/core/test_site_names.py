"""Wells and depths in names of several countries; what is ambiguous is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.slides_on_disk import write_slide

from fossilray.core.config import RunConfig, load_config
from fossilray.core.errors import CatalogError, ConfigError
from fossilray.core.name_pattern import NamePattern
from fossilray.core.records import CatalogRow
from fossilray.core.site_names import parse_name
from fossilray.slides.catalog import describe_missing_sites, find_slides
from fossilray.slides.catalog.sites import keep_frozen_sites
from fossilray.slides.catalog.table import Catalog

WELLS = {
    # Norwegian
    "6407_6-5 2030 mDC": ("6407/6-5", 2030.0),
    "NO_6407_6-5_1520.5m_SWC": ("6407/6-5", 1520.5),
    "34_10-A-12 2133,4 m DC": ("34/10-A-12", 2133.4),
    "NO 6407_6-5 S 2030m": ("6407/6-5 S", 2030.0),
    "15_9-19 A 10000 ft": ("15/9-19 A", 3048.0),
    "16/1-2 3010m": ("16/1-2", 3010.0),
    "Well 16_1-2, 3010 m": ("16/1-2", 3010.0),
    "16_1-2; 3010 m": ("16/1-2", 3010.0),
    "6407_6-5, 2030": ("6407/6-5", None),
    "7120_12-1 1800 m": ("7120/12-1", 1800.0),
    "30_06-C-26 3000 m": ("30/6-C-26", 3000.0),
    "35_3-7 S 3500 m": ("35/3-7 S", 3500.0),
    "6406_3-E-1 H 3500 m": ("6406/3-E-1 H", 3500.0),
    "6507_7-A-8 H T2": ("6507/7-A-8 H T2", None),
    "6507_7-A-8_HT2_2310m": ("6507/7-A-8 HT2", 2310.0),
    "31_2-N-11 AYH": ("31/2-N-11 AYH", None),
    "31_2-N-11 BY2H 2000 m": ("31/2-N-11 BY2H", 2000.0),
    "16_1-2 DC 3010 m": ("16/1-2", 3010.0),
    "16_1-2 SWC 3010 m": ("16/1-2", 3010.0),
    "16_1-2-3010m": ("16/1-2", 3010.0),
    "16_1-2 - 3010 m": ("16/1-2", 3010.0),
    "16_1-2 20191103 305 m": ("16/1-2", 305.0),
    # United Kingdom, Ireland
    "22/12a-3": ("22/12a-3", None),
    "22_12a-3 3000 m": ("22/12a-3", 3000.0),
    "9/13b-A12Z": ("9/13b-A12Z", None),
    "9_13b-A12Z 10,250 ft": ("9/13b-A12Z", 3124.2),
    "211/29-A12": ("211/29-A12", None),
    "211_29-6 9000 ft": ("211/29-6", 2743.2),
    "30_17b-A5 2900m": ("30/17b-A5", 2900.0),
    "204_20a-7Z 2100 m": ("204/20a-7Z", 2100.0),
    # Danish
    "5604/20-1": ("5604/20-1", None),
    "5604_20-1 2000m": ("5604/20-1", 2000.0),
    "5505_17-8, 1999.5 m": ("5505/17-8", 1999.5),
    "Nini-1 1700m": ("Nini-1", 1700.0),
    "Well Nini-1": ("Nini-1", None),
    "well Nini-1A": ("Nini-1A", None),
    # Dutch
    "F03-07": ("F03-07", None),
    "L09-FF-01": ("L09-FF-01", None),
    "L09-FF-01 2010 m": ("L09-FF-01", 2010.0),
    "K18-02_2400m": ("K18-02", 2400.0),
    "F17-04-S2 1500 m": ("F17-04-S2", 1500.0),
    "K12-B-3 2500 m": ("K12-B-3", 2500.0),
    # Canadian
    "Hibernia B-16-17 2500 m": ("Hibernia B-16-17", 2500.0),
    "Well Hibernia B-16": ("Hibernia B-16", None),
    "Well Bjarni O-82, 2130 m": ("Bjarni O-82", 2130.0),
    "100/06-12-034-05W4/00": ("100/06-12-034-05W4/00", None),
    "100_06-12-034-05W4_00 1200 m": ("100/06-12-034-05W4/00", 1200.0),
    "102_14-08-050-26W4 900m": ("102/14-08-050-26W4", 900.0),
    # Australian and other names
    "Gorgon-1 4000m": ("Gorgon-1", 4000.0),
    "DONG-1 2310 m": ("DONG-1", 2310.0),
    "DONG-1, 2310.5 m": ("DONG-1", 2310.5),
    "North Rankin A22 2700 m": ("North Rankin A22", 2700.0),
    "Well North Rankin A22": ("North Rankin A22", None),
    "Gorgon-1 10,250 ft": ("Gorgon-1", 3124.2),
    "Jupiter-1 2310.5m": ("Jupiter-1", 2310.5),
    "East Spar-1 2600 m": ("East Spar-1", 2600.0),
    # United States
    "42-501-20130-03-00": ("42-501-20130-03-00", None),
    "42-501-20130 9,850 ft": ("42-501-20130", 3002.28),
    "API 42-501-20130": ("42-501-20130", None),
    "API 4250120130 9850 ft": ("4250120130", 3002.28),
    "API_42501201300300": ("42501201300300", None),
    # Scientific drilling
    "ODP 207-1258A-14R-2, 35-37 cm": ("1258A", None),
    "1258A-14R-2, 35-37 cm": ("1258A", None),
    "U1343E-12H-3W, 50-52 cm": ("U1343E", None),
    "IODP U1343E-12H-3W 50-52 cm": ("U1343E", None),
    "IODP 323-U1343E-12H-CC": ("U1343E", None),
    "DSDP 525A-40R-1, 100 cm": ("525A", None),
    "M0027A-12R-1": ("M0027A", None),
    "DSDP 48-403-12-3": ("403", None),
    "DSDP 48-403-12-CC, 10-12 cm": ("403", None),
}

NO_WELLS = {
    "2030 mDC": (None, 2030.0),
    "2019-06-05 scan": (None, None),
    "2019-11-03": (None, None),
    "20191103": (None, None),
    "03-11-2019 scan": (None, None),
    "2019_11-03": (None, None),
    "12-6-19": (None, None),
    "7-6-2019": (None, None),
    "40x": (None, None),
    "40x 0.25um": (None, None),
    "20X-1": (None, None),
    "2310 microns": (None, None),
    "2310 um": (None, None),
    "2310 \u00b5m": (None, None),
    "2310 mm": (None, None),
    "0.25 mpp": (None, None),
    "slide_0001": (None, None),
    "Slide-1": (None, None),
    "Slide-1 2310 m": (None, 2310.0),
    "Scan-12 30 m": (None, 30.0),
    "Sample-4 1200 m": (None, 1200.0),
    "Box-2 1200 m": (None, 1200.0),
    "Photo A-12 1200 m": (None, 1200.0),
    "Image-3": (None, None),
    "A17": (None, None),
    "A-52": (None, None),
    "Nini-1": (None, None),
    "Gorgon-1": (None, None),
    "SN 12345678": (None, None),
    "P250-0123456": (None, None),
    "MIDI-2 2019": (None, None),
    "Mirax-1 12 m": (None, 12.0),
    "Nov-2 30 m": (None, 30.0),
    "1-2-3": (None, None),
    "100-200": (None, None),
    "12-345-6789": (None, None),
    "": (None, None),
    "6407_6-5 and 6407_6-6 2030 m": (None, 2030.0),
    "F03-07 F03-08": (None, None),
    "Q1-21 1000m": (None, 1000.0),
    "31_2-N-11 ZZ 2000 m": (None, 2000.0),
    "211_29-A12 S2 2000 m": (None, 2000.0),
    "evil\x1b[31m=cmd|x": (None, None),
    "6407_6-5 2030\x07 m": (None, None),
    **{
        f"{word}-12 2310 m": (None, 2310.0)
        for word in "SWC Cuttings Vial Vials Residue Bin Acid Oxidised Lycopodium Sieve Residues".split()  # noqa: SIM905
    },
}

NO_DEPTHS = {
    "6407_6-5 2030+2040 m": ("6407/6-5", None),
    "6407_6-5 2030/2040 m": ("6407/6-5", None),
    "6407_6-5 2040-2030 m": ("6407/6-5", None),
    "6407_6-5 2030-40 m": ("6407/6-5", None),
    "6407_6-5 12-2040 m": ("6407/6-5", None),
    "6407_6-5 2.030-2.040 m": ("6407/6-5", None),
    "6407_6-5 2030-2040 m TVD": ("6407/6-5", None),
    "6407_6-5 2030-2040 m 2050 m": ("6407/6-5", None),
    "6407_6-5 2030-2040-2050 m": ("6407/6-5", None),
    "6407_6-5 2030 m-6700 ft": ("6407/6-5", None),
    "6407_6-5 2030-2040 m - 2050": ("6407/6-5", None),
    "6407_6-5 3 010-3 015 m": ("6407/6-5", None),
    "6407_6-5 2030-2040": ("6407/6-5", None),
    "16_1-2 2019-11-03 m": ("16/1-2", None),
    "16_1-2 03-11-2019 m": ("16/1-2", None),
    "6407_6-5 2000 m TVD": ("6407/6-5", None),
    "6407_6-5 25 mm": ("6407/6-5", None),
    "6407_6-5 1,234.5 m": ("6407/6-5", None),
    "6407_6-5 2,030 m": ("6407/6-5", None),
    "6407_6-5 2.030 m": ("6407/6-5", None),
    "6407_6-5 100 m 200 m": ("6407/6-5", None),
    "6407_6-5 20300 m": ("6407/6-5", None),
    "6407_6-5 0 m": ("6407/6-5", None),
    "16/1-2 3 010 m": ("16/1-2", None),
    "2/4-14 4 730 m": ("2/4-14", None),
    "2/4-14 4\u00a0730,5 m": ("2/4-14", None),
    "2/4-14 4'730 m": ("2/4-14", None),
    "2_4-14_4_730m": ("2/4-14", None),
    "16_1-2 TVD 2310 m": ("16/1-2", None),
    "16_1-2 2310 m (tvdss)": ("16/1-2", None),
    "16_1-2 3010 & 3015 m": ("16/1-2", None),
    "16_1-2 3010, 3015 m": ("16/1-2", None),
    "16_1-2 3010 m, 3015": ("16/1-2", None),
    "16_1-2 3010 and 3015 m": ("16/1-2", None),
    "16_1-2 3010m - 3015": ("16/1-2", None),
    "6407_6-5 -2030 m": ("6407/6-5", None),
    "6407_6-5 \u22122030 m": ("6407/6-5", None),
}


INTERVALS = {
    "6407_6-5 2030-2040 mDC": ("6407/6-5", 2030.0, 2040.0, "m"),
    "6407_6-5 2030 - 2040 m": ("6407/6-5", 2030.0, 2040.0, "m"),
    "6407_6-5 2030\u20132040 m": ("6407/6-5", 2030.0, 2040.0, "m"),
    "6407_6-5 2030m-2040m": ("6407/6-5", 2030.0, 2040.0, "m"),
    "6407_6-5 2030 to 2040 m": ("6407/6-5", 2030.0, 2040.0, "m"),
    "6407_6-5 2030 til 2040 m": ("6407/6-5", 2030.0, 2040.0, "m"),
    "6407_6-5 2030..2040 m": ("6407/6-5", 2030.0, 2040.0, "m"),
    "2030-2040m": (None, 2030.0, 2040.0, "m"),
    "6407_6-5-2030-2040 m": ("6407/6-5", 2030.0, 2040.0, "m"),
    "9_13b-A12Z 6690-6700 ft": ("9/13b-A12Z", 2039.112, 2042.16, "ft"),
    "9_13b-A12Z 10,250-10,280 ft DC": ("9/13b-A12Z", 3124.2, 3133.344, "ft"),
    "16_1-2 2030,5-2031,5 m": ("16/1-2", 2030.5, 2031.5, "m"),
    "16_1-2 0-10 m": ("16/1-2", 0.0, 10.0, "m"),
    "16_1-2 2019-11-03 2030-2040 m": ("16/1-2", 2030.0, 2040.0, "m"),
    "16_1-2 2030-2040 m 2030-2040 m": ("16/1-2", 2030.0, 2040.0, "m"),
    "6407_6-5 2030 mDC": ("6407/6-5", 2030.0, 2030.0, "m"),
}

SAMPLE_TYPES_OF = {
    "6407_6-5 2030-2040 mDC": "ditch cuttings",
    "6407_6-5 2030 m DC": "ditch cuttings",
    "6407_6-5_2030m_DC_kerogen": "ditch cuttings",
    "6407_6-5 2030 ftDC": "ditch cuttings",
    "6407_6-5 cuttings 2030 m": "ditch cuttings",
    "NO_6407_6-5_1520.5m_SWC": "side-wall core",
    "6407_6-5 SWC12 2030 m": "side-wall core",
    "6407_6-5 Sidewall core 2030 m": "side-wall core",
    "6407_6-5 CC 2030 m": "core",
    "6407_6-5 2030 mCC": "core",
    "6407_6-5 Core 3 2030 m": "core",
    "6407_6-5 CORE 2030 m": "core",
    "outcrop Festningen 12 m": "outcrop",
    "6407_6-5 2030 m": None,
    "6407_6-5 2030 m dc": None,
    "6407_6-5 2030 m 10 CC": None,
    "6407_6-5 2030 m 10cc": None,
    "6407_6-5 2030 m CoreLab": None,
    "Core hole 3 2030 m": None,
    "6407_6-5 2030 m DC CORE": None,
    "DCA1 2030 m": None,
    "score 2030 m": None,
}


@pytest.mark.parametrize(("name", "site"), [*WELLS.items(), *NO_WELLS.items(), *NO_DEPTHS.items()])
def test_names_give_well_and_depth_or_nothing(name: str, site: tuple[str | None, float | None]) -> None:
    named = parse_name(name)
    assert (named.well, named.measured_depth_m) == site


@pytest.mark.parametrize(("name", "site"), INTERVALS.items())
def test_a_range_of_depths_is_an_interval_and_a_point_has_both_ends_equal(
    name: str, site: tuple[str | None, float, float, str]
) -> None:
    named = parse_name(name)
    assert named[:4] == site
    assert named.measured_depth_m == pytest.approx((site[1] + site[2]) / 2)


@pytest.mark.parametrize(("name", "kind"), SAMPLE_TYPES_OF.items())
def test_an_abbreviation_that_stands_alone_gives_the_type_of_sample(name: str, kind: str | None) -> None:
    assert parse_name(name).sample_type == kind


@given(
    quadrant=st.integers(6000, 7999) | st.integers(1, 36),
    block=st.integers(1, 12),
    platform=st.sampled_from(["", "A-", "B-"]),
    number=st.integers(1, 99),
    sidetrack=st.sampled_from(["", " A", " S", " ST2"]),
    depth=st.integers(1, 9000) | st.integers(10_000, 90_000).map(lambda tenths: tenths / 10),
    slash=st.sampled_from("/_"),
)
def test_norwegian_names_are_read_as_they_are_written(
    quadrant: int, block: int, platform: str, number: int, sidetrack: str, depth: float, slash: str
) -> None:
    well = f"{quadrant}/{block}-{platform}{number}{sidetrack}"
    named = parse_name(f"{well.replace('/', slash)} {depth} mDC")
    assert named == (well, depth, depth, "m", "ditch cuttings")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "no regular expression"),
        ("(?P<site>x)", "named groups"),
        ("abc", "named groups"),
        (r"(?P<well>(a+)+)b", "repeat inside a repeat"),
        (r"(?P<well>(?:\w+ )*)x", "repeat inside a repeat"),
        (r"(?P<well>a)(?P=well)", "refers back"),
        (r"(?P<well>.*).*.*.*", "4 of them"),
        (r"(?P<well>(?:q|qq|qqq){40}z)", "alternatives inside a repeat"),
        (r"(?P<well>(q|qq){28}z)", "alternatives inside a repeat"),
        (r"(?P<well>(?:q?){40}z)", "optional part inside a repeat"),
        ("(?P<well>" + "(q|q)" * 26 + "z)", "combinations"),
        ("(?P<well>" + "q?" * 30 + "z)", "combinations"),
        ("(?P<well>)", "always empty"),
        ("(?P<well>(?=x))x", "always empty"),
        ("(?P<well>" + "a" * 600 + ")", "characters"),
    ],
)
def test_patterns_that_cannot_be_searched_in_good_time_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NamePattern(pattern)
    with pytest.raises(ConfigError, match="name_pattern"):
        load_config(None, [f"slides.name_pattern={pattern!r}"])


def test_a_pattern_of_ones_own_comes_first_and_the_grammar_after_it() -> None:
    pattern = NamePattern(r"(?P<well>[A-Z]+\d+)_(?P<depth>[\d.,]+)(?P<unit>m|ft)")
    assert parse_name("QX12_1000ft", pattern)[:4] == ("QX12", 304.8, 304.8, "ft")
    assert parse_name("QX12_2,030m", pattern)[:4] == ("QX12", None, None, None)
    assert parse_name("6407_6-5 2030 m", pattern)[:3] == ("6407/6-5", 2030.0, 2030.0)


def test_a_pattern_of_ones_own_may_name_an_interval_and_a_sample_type() -> None:
    pattern = NamePattern(r"(?P<well>[A-Z]+\d+)_(?P<top>\d+)_(?P<base>\d+)_(?P<sample_type>[A-Z]+)")
    assert parse_name("QX12_2030_2040_DC", pattern) == ("QX12", 2030.0, 2040.0, "m", "ditch cuttings")
    assert parse_name("QX12_2040_2030_SWC", pattern) == ("QX12", None, None, None, "side-wall core")
    assert parse_name("QX12_2030_2040_BULK", pattern).sample_type == "BULK"
    with pytest.raises(ValueError, match="top and base"):
        NamePattern(r"(?P<well>[A-Z]+\d+)_(?P<top>\d+)")


@pytest.mark.parametrize("sign", ["q", r"\x71", "[p-s]"])
def test_a_pattern_is_tried_on_its_own_characters(sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fossilray.core.name_pattern._TRIAL_S", 0.5)
    with pytest.raises(ValueError, match="takes too long to search a long name"):
        NamePattern.timed("(?P<well>" + f"{sign}{{1,8}}" * 12 + "z)")


def test_a_pattern_too_slow_for_the_names_of_the_slides_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fossilray.core.name_pattern._TRIAL_S", 0.5)
    write_slide(tmp_path / f"{'qr' * 60}.mrxs", size=512, objects=1)
    with pytest.raises(CatalogError, match="takes too long to search the"):
        find_slides(str(tmp_path), name_pattern="(?P<well>" + r"[^z]{1,8}" * 2 + "(?:qr){1,8}" * 10 + "z)")


def test_a_pattern_that_finds_nothing_leaves_a_name_to_the_grammar() -> None:
    assert parse_name("6407_6-5 2030 m", NamePattern("(?P<well>q*)"))[:2] == ("6407/6-5", 2030.0)


def test_a_pattern_is_checked_against_the_names_and_slides_without_a_site_are_counted(tmp_path: Path) -> None:
    for name in ("QX12_1000m", "QX12_1100m", "other"):
        write_slide(tmp_path / f"{name}.mrxs", size=512, objects=1)
    pattern = r"(?P<well>[A-Z]+\d+)_(?P<depth>\d+)m"
    found = find_slides(str(tmp_path), name_pattern=pattern)
    assert {row.slide_id: (row.well, row.measured_depth_m) for row in found.rows} == {
        "QX12_1000m": ("QX12", 1000.0),
        "QX12_1100m": ("QX12", 1100.0),
        "other": (None, None),
    }
    assert "1 of 3 slides have no well" in (describe_missing_sites(found.rows) or "")
    with pytest.raises(CatalogError, match="matches the name of none of 3 slides"):
        find_slides(str(tmp_path), name_pattern=r"(?P<well>ZZ\d+)")


def test_a_run_keeps_the_sites_with_which_its_slides_were_listed() -> None:
    new = CatalogRow("a", "a.mrxs", well="DONG-1", measured_depth_m=2310.0)
    old = CatalogRow("a", "a.mrxs")
    assert keep_frozen_sites(Catalog([new], [], from_names=True), [old]) == [old]
    assert keep_frozen_sites(Catalog([new], [], from_names=False), [old]) == [new]
    assert keep_frozen_sites(Catalog([new], [], from_names=True), []) == [new]


def test_a_pattern_is_recorded_and_its_absence_is_not() -> None:
    assert "name_pattern" not in RunConfig().what_changes_results()["slides"]
    config = load_config(None, ["slides.name_pattern='(?P<well>x)'"])
    assert config.what_changes_results()["slides"]["name_pattern"] == "(?P<well>x)"
