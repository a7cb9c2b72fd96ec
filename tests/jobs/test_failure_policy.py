"""Decisions over failed items, without workers: sequences of results over several folders."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from fossilray.core.records import Failure
from fossilray.jobs.scheduler.failure_policy import OUTAGE_ITEMS, Decision, FailurePolicy
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


def a_policy(**more: float) -> FailurePolicy:
    return FailurePolicy(**{"max_tries": 3, "alike_slides": 4, "alike_share": 0.5, **more})  # type: ignore[arg-type]


def test_a_slide_whose_root_is_out_is_held_however_often_it_is_tried() -> None:
    policy = a_policy()
    for second in range(50):
        decision = policy.record_failure(OUT, "/share/a.svs", started_s=second, now_s=second + 0.5)
        assert decision is Decision.HOLD
    assert policy.outages["/share"].since_s == 0.5
    assert policy.outages["/share"].tries == 50


def test_a_failure_that_began_before_its_root_came_back_is_not_final() -> None:
    policy = a_policy()
    policy.record_failure(OUT, "/share/a.svs", started_s=1.0, now_s=2.0)
    own = replace(FAILURE, slide_id="b")
    assert policy.record_failure(own, "/share/b.svs", started_s=1.5, now_s=2.5) is Decision.HOLD
    assert policy.record_success("c", "/share/c.svs", started_s=1.9) is None, "it had read all before"
    assert policy.record_success("d", "/share/d.svs", started_s=3.0) == "/share"
    assert policy.record_failure(own, "/share/b.svs", started_s=1.5, now_s=4.0) is Decision.RETRY
    assert policy.record_failure(own, "/share/b.svs", started_s=5.0, now_s=6.0) is Decision.FAIL


def test_an_outage_changes_no_decision_about_other_roots() -> None:
    policy = a_policy()
    policy.record_failure(OUT, "/share/a.svs", started_s=1.0, now_s=2.0)
    assert (
        policy.record_failure(replace(FAILURE, slide_id="b"), "/disk/b.svs", started_s=1.0, now_s=2.0)
        is Decision.FAIL
    )


def test_many_unreachable_slides_in_a_row_are_an_outage_of_their_root_and_few_are_their_own_failures() -> (
    None
):
    unreachable = replace(FAILURE, error="SourceUnreachable", transient=True, quarantined=False)
    policy = a_policy()
    decisions = [
        policy.record_failure(
            replace(unreachable, slide_id=str(n)), f"s3://bucket/{n}.svs", started_s=n, now_s=n
        )
        for n in range(OUTAGE_ITEMS)
    ]
    assert decisions == [Decision.RETRY] * (OUTAGE_ITEMS - 1) + [Decision.HOLD]
    assert set(policy.outages) == {"s3://bucket"}
    alone = a_policy()
    for n in range(3):
        last = alone.record_failure(unreachable, "s3://bucket/a.svs", started_s=n, now_s=n)
        alone.record_success(f"fine-{n}", f"s3://bucket/fine-{n}.svs", started_s=n)
    assert last is Decision.FAIL
    assert not alone.outages


def test_workers_that_stall_on_one_share_do_not_count_against_its_slides() -> None:
    policy = a_policy()
    roots = [
        policy.record_stall(str(n), f"/share/{n}.svs", "no progress", now_s=n)
        for n in range(OUTAGE_ITEMS + 1)
    ]
    assert roots == [None] * (OUTAGE_ITEMS - 1) + ["/share"] * 2


def test_an_unexpected_exception_is_quarantined_after_its_tries_and_counted_with_its_like() -> None:
    policy = a_policy()
    for slide_id in "abc":
        path = f"/disk/{slide_id}.svs"
        failure = replace(BUG, slide_id=slide_id)
        decisions = [policy.record_failure(failure, path, started_s=n, now_s=n) for n in range(3)]
        assert decisions == [Decision.RETRY, Decision.RETRY, Decision.QUARANTINE]
        assert policy.excessive_failure() is None
    policy.record_failure(replace(BUG, slide_id="d"), "/disk/d.svs", started_s=9, now_s=9)
    alike = policy.excessive_failure()
    assert alike is not None
    assert (
        str(alike)
        == "4 of 4 slides failed alike: ValueError at fossilray/processing/detection/merge.py:120 (no slide)"
    )
    assert {one.slide_id for one in policy.failures_of(alike)} == set("abcd")
    for number in range(4):
        policy.record_success(f"fine-{number}", "/disk/fine.svs", started_s=9)
    assert policy.excessive_failure() is None, "half of all is not more than half"


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
    """Roots are out for a while: a slide tried meanwhile fails by SourceOut, whatever its own result is."""
    policy = a_policy(alike_share=1.0)
    decided: dict[tuple[str, int], Decision | None] = {}
    tries: dict[tuple[str, int], int] = {}
    for now, (root, slide, kind) in enumerate(events):
        if (root, slide) in decided:
            continue
        begin, length = outages.get(root, (0, 0))
        slide_id, path = f"{root}-{slide}", f"{root}/{slide}.svs"
        if begin <= now < begin + length:
            failure = replace(OUT, slide_id=slide_id, root=root)
            assert policy.record_failure(failure, path, started_s=now, now_s=now) is Decision.HOLD
            continue
        if kind == "fine":
            policy.record_success(slide_id, path, started_s=now)
            decided[root, slide] = None
            assert root not in policy.outages, "it was seen to be back"
            continue
        failure = replace(BUG if kind == "bug" else FAILURE, slide_id=slide_id)
        decision = policy.record_failure(failure, path, started_s=now, now_s=now)
        tries[root, slide] = tries.get((root, slide), 0) + 1
        assert root not in policy.outages
        if decision in (Decision.FAIL, Decision.QUARANTINE):
            decided[root, slide] = decision
            assert (decision is Decision.FAIL) == (kind != "bug")
            assert kind != "bug" or tries[root, slide] == 3
        else:
            assert decision is Decision.RETRY
            assert kind == "bug"
    for alike in policy.common_failures():
        assert 1 < alike.count <= alike.finished <= len(SLIDES) * len(ROOTS)
