"""What a job will take: the arithmetic, what it is fed with, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cli_runner import invoke
from support.small_run import BOUNDS, MPP, start_run, write_small_run

from fossilray.core.config import RunConfig
from fossilray.core.errors import CatalogError, ConfigError, UsageError
from fossilray.core.records import CatalogRow
from fossilray.processing.planning import measure
from fossilray.processing.planning.dry_run import RunPlan
from fossilray.processing.planning.machines import find_instance, machine_of_instance
from fossilray.processing.planning.measure import measure_rates
from fossilray.processing.planning.model import ArchiveEstimate, Machine, Quantity, Rates, Workload, estimate
from fossilray.processing.planning.rates import override_rates, rates_of_run, scale_to_gpu
from fossilray.processing.planning.slide_plan import SlidePlan
from fossilray.processing.planning.text import estimate_to_json
from fossilray.processing.planning.workload import (
    assumed_statistics,
    detector_megapixels,
    scanned_info,
    workload_of_plan,
    workload_of_rows,
)

positive = st.floats(0.01, 1e6)


def stated(value: float, unit: str = "") -> Quantity:
    return Quantity(value, unit, "stated")


def work(
    *, slides: float = 10, megapixels: float = 1000, objects: float = 20_000, bytes_read: float = 1e10
) -> Workload:
    """Ten slides that take a worker 2 + 50 + 1 + 35 s at the rates below."""
    return Workload(
        slides=stated(slides),
        gigapixels=stated(70),
        scanned_mm2=stated(1000),
        detector_megapixels=stated(megapixels),
        objects=stated(objects),
        bytes_read=stated(bytes_read),
        bytes_per_object=stated(16_000),
    )


RATES = Rates(
    fixed_s_per_slide=stated(1),
    overview_mm2_per_s=stated(100),  # 100 mm2 a slide: 1 s
    read_mp_per_s=stated(2),  # 100 MP a slide: 50 s of a core
    detector_mp_per_s=stated(2),  # 50 s
    merged_objects_per_s=stated(2000),  # 2,000 a slide: 1 s
    cut_objects_per_s=stated(50),  # 40 s of a core
    measured_objects_per_s=stated(200),  # 10 s
    encoded_objects_per_s=stated(100),  # 20 s
    embedded_objects_per_s=stated(2000 / 30),  # 30 s
)
CPU_BOX = Machine("box", cores=4, gpus=0, workers=2, read_threads=2)
GPU_BOX = Machine("gpu box", cores=16, gpus=2, workers=2, read_threads=4, network_gbit_s=1.0)
ON_GPU = replace(RATES, detector_mp_per_s=stated(50), embedded_objects_per_s=stated(1000), on_gpu=True)


def test_a_hand_worked_slide_on_cores_alone() -> None:
    estimated = estimate(work(), RATES, CPU_BOX)
    # Two threads read 50 s of tiles in 25 while the detector needs 50; they cut, measure and encode in
    # (40 + 10 + 20) / 2 s while 30 s are embedded.
    assert [stage.seconds for stage in estimated.stages] == pytest.approx([2, 50, 1, 35])
    assert [stage.decided_by for stage in estimated.stages][1::2] == ["detector", "cutting crops"]
    # In all 2 + (50 + 50) + 1 + (40 + 10 + 30 + 20) = 203 s of a core.
    assert dict(estimated.limits) == pytest.approx({"workers in turn": 88 / 2, "cores": 203 / 4})
    assert estimated.bottleneck == "cores (mostly reading tiles)"
    assert estimated.hours == pytest.approx(10 * 203 / 4 / 3600)
    assert estimated.stored_bytes == 20_000 * 16_000
    assert (estimated.gpu_hours, estimated.money) == (0, None)


def test_a_hand_worked_slide_on_gpus() -> None:
    machine = replace(GPU_BOX, price_per_hour=stated(2.0))
    estimated = estimate(work(), ON_GPU, machine, machines=3)
    # Four threads read in 12.5 s what the GPU looks at in 2, and cut, measure and encode in 17.5 s what it embeds in 2.
    assert [stage.seconds for stage in estimated.stages] == pytest.approx([2, 12.5, 1, 17.5])
    assert dict(estimated.limits) == pytest.approx(
        {"workers in turn": 33 / 2, "cores": 123 / 16, "GPU": 4 / 2, "network": 8.0}
    )
    assert estimated.bottleneck == "workers in turn (mostly cutting crops)"
    assert estimated.seconds_per_slide == 16.5
    assert estimated.slides_per_hour == pytest.approx(3 * 3600 / 16.5)
    assert estimated.gpu_hours == pytest.approx(10 * 16.5 / 3600 * 2)
    assert estimated.money == pytest.approx(10 * 16.5 / 3600 * 2.0)
    assert estimated.gpu_busy_share == pytest.approx(2 / 16.5)


def test_machines_for_a_number_of_days_are_rounded_up() -> None:
    estimated = estimate(work(), ON_GPU, GPU_BOX)
    assert estimated.days == pytest.approx(165 / 86_400)
    assert [estimated.machines_for(estimated.days / share) for share in (0.1, 1, 2, 3.5)] == [1, 1, 2, 4]


@pytest.mark.parametrize(
    ("workload", "rates", "named"),
    [
        (work(bytes_read=1e13), ON_GPU, "network (bytes of slides)"),
        (work(megapixels=1e5), replace(ON_GPU, read_mp_per_s=stated(1e4)), "GPU (mostly detector)"),
        (
            work(objects=1e6),
            replace(ON_GPU, cut_objects_per_s=stated(9)),
            "workers in turn (mostly cutting crops)",
        ),
    ],
)
def test_the_bottleneck_is_named(workload: Workload, rates: Rates, named: str) -> None:
    machine = replace(GPU_BOX, workers=8) if "GPU" in named else GPU_BOX
    assert estimate(workload, rates, machine).bottleneck == named


machines = st.builds(
    Machine,
    name=st.just("any"),
    cores=st.integers(1, 192),
    gpus=st.integers(1, 8),
    workers=st.integers(1, 64),
    read_threads=st.integers(1, 16),
    network_gbit_s=st.none() | st.floats(0.1, 400),
)
workloads = st.builds(
    work, slides=st.floats(1, 1e6), megapixels=positive, objects=positive, bytes_read=st.floats(1, 1e15)
)


@given(workloads, machines, st.integers(1, 8))
def test_more_of_anything_is_never_slower(workload: Workload, machine: Machine, more: int) -> None:
    before = estimate(workload, ON_GPU, machine).hours
    for name in ("cores", "workers", "read_threads"):
        assert (
            estimate(workload, ON_GPU, replace(machine, **{name: getattr(machine, name) + more})).hours
            <= before
        )
    with_gpus = replace(machine, gpus=machine.gpus + more, workers=machine.workers + more)
    assert estimate(workload, ON_GPU, with_gpus).hours <= before


@given(workloads, machines)
def test_twice_the_slides_take_twice_the_hours(workload: Workload, machine: Machine) -> None:
    twice = Workload(
        **{
            name: replace(result, value=result.value * (1 if name == "bytes_per_object" else 2))
            for name, result in vars(workload).items()
        }
    )
    once, double = (estimate(one, ON_GPU, machine) for one in (workload, twice))
    assert double.hours == pytest.approx(2 * once.hours)
    assert double.gpu_hours == pytest.approx(2 * once.gpu_hours)
    assert double.bottleneck == once.bottleneck


@given(workloads, machines, st.integers(2, 9))
def test_more_machines_share_the_hours_and_cost_the_same(
    workload: Workload, machine: Machine, many: int
) -> None:
    priced = replace(machine, price_per_hour=stated(1.5))
    one, several = (estimate(workload, ON_GPU, priced, machines=number) for number in (1, many))
    assert several.hours == pytest.approx(one.hours / many)
    assert several.money == pytest.approx(one.money)


def test_rates_of_a_gpu_need_a_gpu() -> None:
    with pytest.raises(ValueError, match="has no GPU"):
        estimate(work(), ON_GPU, CPU_BOX)


def test_what_a_catalog_lacks_is_a_stated_assumption() -> None:
    statistics = assumed_statistics(16_000)
    whole = CatalogRow("a", "a.mrxs", width=20_000, height=10_000, mpp=0.25)
    bounded = replace(whole, slide_id="b", bounds_x=5, bounds_y=5, bounds_width=10_000, bounds_height=10_000)
    nothing = CatalogRow("c", "c.mrxs")
    result = workload_of_rows([whole, bounded, nothing], RunConfig(), statistics)
    assert result.gigapixels.value == pytest.approx(0.2 + 0.1 + 7.0, rel=1e-4)
    assert result.gigapixels.source == "from the catalog"
    for what in ("the whole canvas scanned", "7 GP", "0.25 um per px"):
        assert f"{what} assumed for 1 of 3" in result.gigapixels.how
    alone = workload_of_rows([bounded], RunConfig(), statistics).gigapixels
    assert (alone.source, alone.how) == ("from the catalog", "")
    assert workload_of_rows([nothing], RunConfig(), statistics).gigapixels.source == "assumed"
    with pytest.raises(CatalogError, match="no slide"):
        workload_of_rows([], RunConfig(), statistics)


def test_the_archives_mean_slide_has_its_objects() -> None:
    result = workload_of_rows(
        [CatalogRow("c", "c.mrxs")], RunConfig(), assumed_statistics(16_000), slides=150_000
    )
    assert result.slides.value == 150_000
    assert result.objects.value == pytest.approx(3e9, rel=0.02)
    assert result.bytes_read.value == pytest.approx(285e12, rel=0.01)


def test_many_slides_are_planned_by_their_sizes_and_few_one_by_one() -> None:
    rows = [
        CatalogRow(f"s{n}", "s.mrxs", width=30_000 + 571 * n, height=90_000 - 433 * n, mpp=0.25)
        for n in range(101)
    ]
    statistics = assumed_statistics(16_000)
    one_by_one = sum(
        workload_of_rows([row], RunConfig(), statistics).detector_megapixels.value for row in rows
    )
    together = workload_of_rows(rows, RunConfig(), statistics).detector_megapixels.value
    assert together == pytest.approx(one_by_one, rel=0.01)


def test_a_dry_run_counts_what_is_not_committed() -> None:
    row = CatalogRow("a", "a.mrxs", width=40_000, height=20_000, mpp=0.25)
    slides = [
        SlidePlan(row, committed=done, tiles=tiles, blank=0, detection_megapixels=30.0, covered_mm2=10.0)
        for done, tiles in ((False, 8), (True, 8), (False, None))
    ]
    plan = RunPlan(tuple(slides), (), 1, 16_000)
    result = workload_of_plan(plan, assumed_statistics(16_000))
    assert result is not None
    assert (result.slides.value, result.detector_megapixels.value, result.objects.value) == (2, 60, 920)
    assert workload_of_plan(replace(plan, slides=(slides[1],)), assumed_statistics(16_000)) is None


def test_rates_of_a_run_give_back_its_seconds(tmp_path: Path) -> None:
    write = write_small_run(tmp_path / "painted")
    result = rates_of_run(write)
    slides = write.summaries()
    objects = sum(slide.objects for slide in slides)
    estimated = estimate(
        replace(
            work(slides=len(slides), objects=objects),
            detector_megapixels=stated(result.rates.detector_mp_per_s.value * 2.0 * len(slides)),
        ),
        result.rates,
        replace(CPU_BOX, workers=1, cores=1),
    )
    # Of each slide of that run: 3.0 s in all, 2.0 detecting, 0.1 merging, 1.0 with crops, which sums to more.
    assert [stage.seconds for stage in estimated.stages] == pytest.approx([0.0, 2.0, 0.1, 1.0], abs=1e-6)
    # Each was shown 2.0 MP, of what its whole area would come to.
    assert result.rates.detector_mp_per_s.value == pytest.approx(1.0)
    whole = detector_megapixels(scanned_info(BOUNDS.width, BOUNDS.height, mpp=MPP), RunConfig())
    assert result.statistics.blank_share.value == pytest.approx(1 - 2.0 / whole)
    with pytest.raises(UsageError, match="no committed slide with objects"):
        rates_of_run(start_run(tmp_path / "empty"))


def test_stated_rates_stand_in_place_of_measured_ones(tmp_path: Path) -> None:
    file = tmp_path / "l4.yaml"
    file.write_text("detector_mp_per_s: 400\nembedded_objects_per_s: 900\n")
    result = override_rates(RATES, file, on_gpu=True)
    assert (result.detector_mp_per_s.value, result.detector_mp_per_s.source, result.on_gpu) == (
        400,
        "stated",
        True,
    )
    assert result.read_mp_per_s == RATES.read_mp_per_s


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("detector_mp_per_s: 400", "lacks embedded_objects_per_s"),
        ("embeds: 3", "'embeds', which is not a rate"),
        ("detector_mp_per_s: -1", "write a number above 0"),
        ("detector_mp_per_s: true", "write a number above 0"),
        ("- 3", "contains no rates"),
        ("[", "it is not YAML"),
    ],
)
def test_a_file_of_rates_that_is_wrong_is_one_sentence(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "rates.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=reason) as caught:
        override_rates(RATES, file, on_gpu=True)
    assert "\n" not in str(caught.value)


def test_a_gpu_reckoned_in_cores_is_called_assumed() -> None:
    result = scale_to_gpu(RATES, 100)
    assert result.detector_mp_per_s.value == 200
    assert result.detector_mp_per_s.source == "assumed"
    assert "100 times one core's 2 (stated)" in result.detector_mp_per_s.how
    assert result.read_mp_per_s == RATES.read_mp_per_s


def test_an_unknown_instance_is_one_sentence_that_names_the_known() -> None:
    with pytest.raises(
        ConfigError, match=r"instance 'g99\.huge' is not known; choose here or one of g6\.xlarge"
    ) as caught:
        find_instance("g99.huge")
    assert "\n" not in str(caught.value)


def test_a_price_that_is_given_replaces_the_placeholder() -> None:
    instance = find_instance("g6.4xlarge")
    result = machine_of_instance(instance, RunConfig()).price_per_hour
    mine = machine_of_instance(instance, RunConfig(), price_per_hour=0.5).price_per_hour
    assert result is not None
    assert mine is not None
    assert (result.source, mine.source, mine.value) == ("assumed", "stated", 0.5)
    assert "placeholder" in result.how


def test_a_table_of_machines_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "priced: today\ninstances:\n- {name: tower, gpus: 2, gpu: RTX, vcpus: 32, memory_gib: 128, "
        "network_gbit_s: 10, on_demand_per_hour: null}\n"
    )
    machine = machine_of_instance(find_instance("tower", file=file), RunConfig(), file=file)
    assert (machine.cores, machine.workers, machine.price_per_hour) == (32, 2, None)
    file.write_text("instances: [{name: tower}]")
    with pytest.raises(ConfigError, match="cannot be read as instances"):
        find_instance("tower", file=file)


def test_files_of_a_killed_measurement_are_deleted_as_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(measure, "load_detector", lambda *_args, **_options: None)
    monkeypatch.setattr(measure, "load_embedder", lambda *_args, **_options: None)
    seen: list[Path] = []

    def killed(folder: Path, **_options: object) -> None:
        seen.append(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "synthesise_archive", killed)
    with pytest.raises(KeyboardInterrupt):
        measure_rates(RunConfig())
    (folder,) = seen
    assert folder.parent.parent == tmp_path
    assert folder.parent.name.startswith("fossilray-scratch-")
    assert not folder.exists()


@pytest.mark.slow  # some seconds; the dry run of test_process measures too
def test_rates_are_measured_on_this_machine() -> None:
    result = measure_rates(RunConfig())
    for name, rate in vars(result).items():
        if name != "on_gpu":
            assert rate.value > 0
            assert rate.source == "measured here"


def test_the_command_shows_every_term(tmp_path: Path) -> None:
    write_small_run(tmp_path / "run")
    catalog = tmp_path / "catalog.csv"
    catalog.write_text("slide_id,path,bounds_width,bounds_height,mpp\na,a.mrxs,80000,80000,0.25\n")
    arguments = ["estimate", str(catalog), "--from-run", str(tmp_path / "run"), "--slides", "150000"]
    estimated = invoke(*arguments, "--days", "30", "--price", "2", columns=200)
    assert estimated.exit_code == 0, estimated.output
    for term in (
        "measured in a run",
        "stated",
        "from the catalog",
        "decided by",
        "slides/h",
        "within 30 days",
    ):
        assert term in estimated.output
    result = json.loads(invoke(*arguments, "--json").output)
    assert result["workload"]["slides"]["value"] == 150_000
    assert result["results"]["bottleneck"]


def test_a_gpu_without_rates_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    catalog = tmp_path / "catalog.csv"
    catalog.write_text("slide_id,path\na,a.mrxs\n")
    estimated = invoke("estimate", catalog, "--instance", "g6.4xlarge")
    assert isinstance(estimated.exception, ConfigError)
    assert "--gpu-factor" in str(estimated.exception)


def test_json_has_the_same_numbers() -> None:
    estimated: ArchiveEstimate = estimate(work(), RATES, CPU_BOX)
    result = json.loads(estimate_to_json(estimated, within_days=1))
    assert result["results"]["hours"] == estimated.hours
    assert result["results"]["machines_within_days"] == 1
    assert result["rates"]["read_mp_per_s"] == {"value": 2, "unit": "", "source": "stated", "how": ""}
