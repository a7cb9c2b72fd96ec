"""Verdicts over failed slides, without workers: sequences of outcomes over several folders."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from fossilray.core.records import Failure
from fossilray.jobs.scheduler.failure_policy import OUTAGE_SLIDES, Judge, Verdict
from fossilray.slides.neighbours import is_below, nearest, root_of

FAILURE = Failure(
    "a", "00" * 8, "open", "NotASlide", "no slide", False, True, "here", "2030-01-01T00:00:00+00:00"
)
OUT = replace(FAILURE, error="SourceOut", transient=True, quarantined=False, root="/share")
BUG = replace(
    FAILURE,
    error="ValueError",
    transient=True,
    quarantined=False,
    place="fossilray/processing/detection/merge.py:120",
)


def a_judge(**more: float) -> Judge:
    return Judge(**{"max_tries": 3, "alike_slides": 4, "alike_share": 0.5, **more})  # type: ignore[arg-type]


def test_a_slide_whose_root_is_out_is_held_however_often_it_is_tried() -> None:
    judge = a_judge()
    for second in range(50):
        verdict = judge.failed(OUT, "/share/a.svs", began_s=second, now_s=second + 0.5)
        assert verdict is Verdict.HELD
    assert judge.outages["/share"].since_s == 0.5
    assert judge.outages["/share"].tries == 50


def test_a_failure_that_began_before_its_root_came_back_is_not_final() -> None:
    judge = a_judge()
    judge.failed(OUT, "/share/a.svs", began_s=1.0, now_s=2.0)
    own = replace(FAILURE, slide_id="b")
    assert judge.failed(own, "/share/b.svs", began_s=1.5, now_s=2.5) is Verdict.HELD
    assert judge.succeeded("c", "/share/c.svs", began_s=1.9) is None, "it had read all before"
    assert judge.succeeded("d", "/share/d.svs", began_s=3.0) == "/share"
    assert judge.failed(own, "/share/b.svs", began_s=1.5, now_s=4.0) is Verdict.AGAIN
    assert judge.failed(own, "/share/b.svs", began_s=5.0, now_s=6.0) is Verdict.FAILED


def test_other_roots_are_judged_as_ever() -> None:
    judge = a_judge()
    judge.failed(OUT, "/share/a.svs", began_s=1.0, now_s=2.0)
    assert (
        judge.failed(replace(FAILURE, slide_id="b"), "/disk/b.svs", began_s=1.0, now_s=2.0) is Verdict.FAILED
    )


def test_many_silent_slides_in_a_row_are_their_roots_failure_and_few_are_their_own() -> None:
    silent = replace(FAILURE, error="SourceUnreachable", transient=True, quarantined=False)
    judge = a_judge()
    verdicts = [
        judge.failed(replace(silent, slide_id=str(n)), f"s3://bucket/{n}.svs", began_s=n, now_s=n)
        for n in range(OUTAGE_SLIDES)
    ]
    assert verdicts == [Verdict.AGAIN] * (OUTAGE_SLIDES - 1) + [Verdict.HELD]
    assert set(judge.outages) == {"s3://bucket"}
    alone = a_judge()
    for n in range(3):
        last = alone.failed(silent, "s3://bucket/a.svs", began_s=n, now_s=n)
        alone.succeeded(f"fine-{n}", f"s3://bucket/fine-{n}.svs", began_s=n)
    assert last is Verdict.FAILED
    assert not alone.outages


def test_workers_that_stand_still_over_one_share_are_no_slides_deaths() -> None:
    judge = a_judge()
    roots = [
        judge.stalled(str(n), f"/share/{n}.svs", "no progress", now_s=n) for n in range(OUTAGE_SLIDES + 1)
    ]
    assert roots == [None] * (OUTAGE_SLIDES - 1) + ["/share"] * 2


def test_what_no_rule_expects_is_quarantined_after_its_tries_and_counted_alike() -> None:
    judge = a_judge()
    for slide_id in "abc":
        path = f"/disk/{slide_id}.svs"
        failure = replace(BUG, slide_id=slide_id)
        verdicts = [judge.failed(failure, path, began_s=n, now_s=n) for n in range(3)]
        assert verdicts == [Verdict.AGAIN, Verdict.AGAIN, Verdict.QUARANTINED]
        assert judge.too_many_alike() is None
    judge.failed(replace(BUG, slide_id="d"), "/disk/d.svs", began_s=9, now_s=9)
    alike = judge.too_many_alike()
    assert alike is not None
    assert (
        str(alike)
        == "4 of 4 slides failed alike: ValueError at fossilray/processing/detection/merge.py:120 (no slide)"
    )
    assert {one.slide_id for one in judge.failures_of(alike)} == set("abcd")
    for number in range(4):
        judge.succeeded(f"fine-{number}", "/disk/fine.svs", began_s=9)
    assert judge.too_many_alike() is None, "half of all is not more than half"


def test_the_root_is_the_smallest_folder_with_other_slides() -> None:
    others = ["/data/a/1.svs", "/data/a/2.svs", "/data/b/3/3.svs", "/data/b/4/4.svs", "/tmp/x.svs"]
    assert nearest("/data/a/1.svs", others) == ("/data/a", ["/data/a/2.svs"])
    assert nearest("/data/b/3/3.svs", others) == ("/data/b", ["/data/b/4/4.svs"])
    assert nearest("/tmp/x.svs", others) == ("/tmp", []), (
        "two folders of the system's own root are no neighbours"
    )
    assert nearest("s3://one/a.svs", ["s3://one/a.svs", "s3://two/b.svs"]) == ("s3://one", [])
    assert nearest("s3://one/a.svs", ["s3://one/x/b.svs"]) == ("s3://one", ["s3://one/x/b.svs"])
    assert root_of("/data/a/1.svs") == "/data/a"
    assert is_below("/data/a/1.svs", "/data")
    assert not is_below("/database/1.svs", "/data")
    assert is_below("/x.svs", "/")


SLIDES, ROOTS = range(6), ("/share", "/disk", "s3://bucket")
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(ROOTS), st.sampled_from(SLIDES), st.sampled_from(["fine", "own", "bug", "absent"])
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(EVENTS, st.dictionaries(st.sampled_from(ROOTS), st.tuples(st.integers(0, 60), st.integers(1, 30))))
def test_no_order_of_outcomes_makes_an_outage_a_slides_failure(
    events: list[tuple[str, int, str]], outages: dict[str, tuple[int, int]]
) -> None:
    """A world where roots are out for a while: a slide tried meanwhile answers SourceOut, whatever it is like."""
    judge = a_judge(alike_share=1.0)
    settled: dict[tuple[str, int], Verdict | None] = {}
    tries: dict[tuple[str, int], int] = {}
    for now, (root, slide, kind) in enumerate(events):
        if (root, slide) in settled:
            continue
        begin, length = outages.get(root, (0, 0))
        slide_id, path = f"{root}-{slide}", f"{root}/{slide}.svs"
        if begin <= now < begin + length:
            failure = replace(OUT, slide_id=slide_id, root=root)
            assert judge.failed(failure, path, began_s=now, now_s=now) is Verdict.HELD
            continue
        if kind == "fine":
            judge.succeeded(slide_id, path, began_s=now)
            settled[root, slide] = None
            assert root not in judge.outages, "it was seen to be back"
            continue
        failure = replace(BUG if kind == "bug" else FAILURE, slide_id=slide_id)
        verdict = judge.failed(failure, path, began_s=now, now_s=now)
        tries[root, slide] = tries.get((root, slide), 0) + 1
        assert root not in judge.outages
        if verdict in (Verdict.FAILED, Verdict.QUARANTINED):
            settled[root, slide] = verdict
            assert (verdict is Verdict.FAILED) == (kind != "bug")
            assert kind != "bug" or tries[root, slide] == 3
        else:
            assert verdict is Verdict.AGAIN
            assert kind == "bug"
    for alike in judge.alike():
        assert 1 < alike.slides <= alike.of <= len(SLIDES) * len(ROOTS)
