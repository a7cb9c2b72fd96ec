"""Configuration of the slide job: frozen, without unknown keys, with units in the names."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from fossilray.core.config.base import KEPT_BACK, Section
from fossilray.core.config.choices import CropFit, CropFocus, FocusPlanes, SlideReader
from fossilray.core.config.job import CostConfig, WatchConfig, WorkersConfig
from fossilray.core.doubt_codes import COMPARING_CODES, DOUBT_CODES
from fossilray.core.name_pattern import NamePattern


class AccessConfig(Section):
    """Access to an object store, without credentials. Does not change results."""

    endpoint_url: str | None = Field(None, description="S3 endpoint, for stores other than AWS.")
    region: str | None = Field(None, description="S3 region.")
    profile: str | None = Field(None, description="Profile of the shared AWS credentials file.")
    anonymous: bool = Field(False, description="Reach public buckets without credentials.")
    tries: int = Field(
        8,
        ge=1,
        description="Attempts at a request that is throttled, times out, is reset or fails with a server "
        "error; the waits between them double, with random variation.",
    )
    timeout_s: float = Field(
        60.0, gt=0, description="Seconds without a response after which a request counts as failed."
    )

    @field_validator("endpoint_url")
    @classmethod
    def _endpoint_is_a_plain_address(cls, url: str | None) -> str | None:
        if url is None:
            return None
        protocol, separator, rest = url.partition("://")
        if "@" in url:
            raise PydanticCustomError(
                KEPT_BACK,
                "must not hold credentials; put them into the shared AWS credentials file and name its profile",
            )
        if protocol not in ("http", "https") or not separator or not rest:
            raise PydanticCustomError(KEPT_BACK, "must begin with http:// or https:// and name a host")
        return url


class SlidesConfig(Section):
    """Slides and how they are read."""

    source: str | None = Field(
        None,
        description="Folder, glob, one slide, a catalog, or s3://bucket/folder. The argument SLIDES of "
        "`process` overrides it.",
    )
    access: AccessConfig | None = Field(
        None, description="How slides in an object store are reached; unset: as the run directory (`store`)."
    )
    scratch: str | None = Field(
        None,
        description="Local folder where slides from an object store are staged; unset: the system's temporary one.",
    )
    scratch_gb: float = Field(
        20.0,
        gt=0,
        description="Maximum GB that a worker keeps staged, for the current slide and the next one together.",
    )
    fetch_threads: int = Field(
        8, ge=1, description="Parts of a slide that are downloaded in parallel when it is staged."
    )
    max_gigapixels: float = Field(
        200.0,
        gt=0,
        description="A file that claims more level-0 pixels than this (in 1e9) is refused without being read; "
        "a typical slide has about 7.",
    )
    max_objects: int = Field(
        1_000_000,
        ge=1,
        description="A slide with more detected boxes than this is refused: such numbers are noise. A typical "
        "slide has about 20,000; 1,000,000 objects are 16 GB of crops.",
    )
    mpp: float | None = Field(
        None,
        gt=0,
        description="um per level-0 pixel for slides that state none and have none in the catalog.",
    )
    mpp_override: float | None = Field(
        None,
        gt=0,
        description="um per level-0 pixel, whatever the slides state; recorded in the run.",
    )
    name_pattern: str | None = Field(
        None,
        description="Regular expression with the named groups `well` and `depth` (and `unit`: m or ft; "
        "`top` and `base` for an interval; `sample_type`), searched in each file's name (without its suffix) "
        "and in the names of its folders. Unset, or where it does not match: the names that "
        "docs/guide/site-names.md lists.",
    )
    max_lost_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="A slide fails if more than this share of the foreground cannot be read in a pass of the "
        "detector, or if more than this share of its crops cannot be read or come from a coarser "
        "level.",
    )
    planes: FocusPlanes = Field(
        "middle",
        description="Focus planes of TIFF, OME-TIFF, SVS and NDPI slides that are read. middle: the one that "
        "OpenSlide reads. best: all; objects are detected in extended focus, and each crop is from "
        "the plane in which its object is sharpest. all: as best, but objects are detected in every "
        "plane.",
    )
    unique_scans: bool = Field(
        False,
        description="Leave out all but one of the slides that are the same scan under several names.",
    )
    strict_doubts: tuple[str, ...] = Field(
        (),
        description="Codes of doubts for which a slide is refused instead of marked, such as mpp-implausible.",
    )
    read_threads: int = Field(
        2, ge=1, description="Threads per worker that read and decode pixels; does not change results."
    )
    reader: SlideReader = Field(
        "auto",
        description="auto: the JPEG tiles of MIRAX, SVS and tiled TIFF slides are decoded without OpenSlide "
        "on each level where the pixels were found to be equal; openslide: never. Does not change "
        "results.",
    )

    @field_validator("strict_doubts")
    @classmethod
    def _doubts_are_known(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        for code in codes:
            if code not in DOUBT_CODES:
                raise ValueError(f"{code!r:.40} is not a code of a doubt; known are {', '.join(DOUBT_CODES)}")
            if code in COMPARING_CODES:
                raise ValueError(f"{code} compares slides that are committed, so it cannot refuse one")
        return codes

    @field_validator("name_pattern")
    @classmethod
    def _pattern_can_be_searched(cls, text: str | None) -> str | None:
        if text is not None:
            NamePattern(text)
        return text


class TilingConfig(Section):
    """Division of a slide into tiles."""

    tile_px: int | None = Field(
        None,
        ge=256,
        description="Longest side of a tile's core in level-0 pixels, in the finest pass. Unset: windows of "
        "at most 1856 px at the detection scale, or 2048 px (as in the paper) with "
        "`detector.seen_at_px` and exported networks.",
    )
    blank_um_per_px: float = Field(
        8.0, gt=0, description="Resolution, in um per pixel, of the overview in which background is found."
    )
    blank_contrast: float = Field(
        6.0,
        ge=0,
        description="An area is background if no overview pixel in it differs from the background colour by "
        "more grey levels than this; with 0 everything is foreground.",
    )


class PassConfig(Section):
    """A pass of the detector over the slide at one scale."""

    um_per_px: float = Field(gt=0, description="Scale at which the detector sees the slide, in um per pixel.")
    smallest_um: float = Field(
        0.0, ge=0, description="Boxes whose longest side is shorter (um) are left to a finer pass."
    )
    largest_um: float = Field(
        gt=0,
        description="Largest object (longest side, um) that this pass must see whole; the halo around a core "
        "is half of it plus 64 px.",
    )


class ClassicalConfig(Section):
    """The paper's classical segmentation; defaults are its values at 0.25 um per pixel."""

    gaussian_um: float = Field(1.25, gt=0, description="Sigma of the Gaussian blur, in um.")
    block_um: float = Field(
        100.0, gt=0, description="Side of the neighbourhood of the adaptive Gaussian threshold, in um."
    )
    offset: float = Field(
        8.0,
        description="Grey levels (0-255) below the weighted mean of the neighbourhood that count as object.",
    )
    min_area_um2: float = Field(
        250.0, ge=0, description="Smallest component kept, in um2 (the paper: 4000 px at 0.25 um per pixel)."
    )


class DetectorConfig(Section):
    """Object detector."""

    kind: Literal["yolo", "classical"] = Field(
        "yolo", description="Neural detector or classical segmentation."
    )
    weights: str = Field(
        "bundled",
        description="Weights of the yolo detector: `bundled`, or a path to an ultralytics .pt, a fossilray "
        ".safetensors, or an exported .onnx or .torchscript.",
    )
    output: Literal["auto", "objectness", "classes", "boxes"] = Field(
        "auto",
        description="Format of an exported model's rows: `objectness` (YOLOv5: box, objectness, classes), "
        "`classes` (YOLOv8 and later), `boxes` (corners, score, class; already suppressed), or "
        "`auto`: derived from their shape.",
    )
    invert: bool | None = Field(
        None,
        description="Give the network 255 minus the colours, as the paper does. Unset: as the weights state, "
        "else inverted.",
    )
    passes: tuple[PassConfig, ...] = Field(
        (
            PassConfig(um_per_px=1.0, smallest_um=0.0, largest_um=160.0),
            PassConfig(um_per_px=3.0, smallest_um=100.0, largest_um=1000.0),
        ),
        min_length=1,
        description="Passes of the detector over the slide, from fine to coarse; the coarse ones find large "
        "objects.",
    )
    seen_at_px: int | None = Field(
        None,
        ge=32,
        description="Scale as the paper states it: the side in pixels to which a tile is resized (128 for a "
        "2048 px tile). Replaces `passes` by a single one.",
    )
    confidence: float = Field(0.3, ge=0, le=1, description="Boxes with a lower score are dropped.")
    iou: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Within a tile, the lower-scoring of two boxes with a larger IoU is dropped.",
    )
    batch: int = Field(4, ge=1, description="Tiles per forward pass.")
    max_per_tile: int = Field(3000, ge=1, description="Maximum number of boxes kept from one tile.")
    classical: ClassicalConfig = Field(ClassicalConfig(), description="Parameters of the classical detector.")

    @property
    def is_exported(self) -> bool:
        """Whether the network is an exported one, which may accept a single image size."""
        return self.kind == "yolo" and self.weights.lower().endswith((".onnx", ".torchscript"))

    @model_validator(mode="after")
    def _passes_run_fine_to_coarse(self) -> Self:
        scales = [each.um_per_px for each in self.passes]
        if scales != sorted(set(scales)):
            raise ValueError("passes must go from fine to coarse (um_per_px rising)")
        for each in self.passes:
            if each.smallest_um >= each.largest_um:
                raise ValueError("a pass needs smallest_um below largest_um")
        return self


class MergeConfig(Section):
    """Merging of boxes of neighbouring tiles and passes into objects."""

    same_object_iou: float = Field(
        0.5, gt=0, le=1, description="Boxes of different tiles or passes with a larger IoU are one object."
    )
    isolated_overlap: float = Field(
        0.001,
        ge=0,
        le=1,
        description="An object whose largest IoU with another is below this is isolated (paper).",
    )


class CropsConfig(Section):
    """Extraction and storage of crops."""

    size_px: int = Field(224, ge=16, le=1024, description="Side of a stored crop in pixels.")
    fit: CropFit = Field(
        "stretch",
        description="`stretch` fills the square, as in the paper; `letterbox` keeps the aspect ratio.",
    )
    focus: CropFocus = Field(
        "sharpest",
        description="With `slides.planes` best or all: `sharpest` takes a crop from the plane in which its object is "
        "sharpest, `extended` combines all planes.",
    )
    encoding: Literal["jpeg", "lossless"] = Field("jpeg", description="Encoding of crops in Zarr.")
    jpeg_quality: int = Field(90, ge=1, le=100, description="JPEG quality of stored crops.")


class EmbedderConfig(Section):
    """Backbone that embeds each crop."""

    weights: str = Field(
        "bundled",
        description="`bundled`, `none` (detection and crops only), `timm:<name>` (weights from a hub), or "
        "`file:<path>` (DINO, SCAMPI or timm state dict, .safetensors or .pth).",
    )
    architecture: str | None = Field(
        None, description="timm name of the network inside `file:` weights; unset: inferred from them."
    )
    input_px: int | None = Field(
        None,
        ge=16,
        le=1024,
        description="Side in pixels to which crops are resized for the network; unset: the size its weights "
        "were trained for. Position embeddings are interpolated.",
    )
    batch: int = Field(64, ge=1, description="Crops per forward pass.")


class StoreConfig(AccessConfig):
    """Run directory and access to it. Does not change results."""

    run: str | None = Field(
        None,
        description="Run directory, a local path or s3://…. The option --run of `process` overrides it.",
    )
    patience_minutes: float = Field(
        30.0,
        ge=0,
        description="How long the job waits for a store that is unreachable or denies access before it stops.",
    )
    single_writer: bool = Field(
        False,
        description="Let the driver alone commit, for stores without conditional create. Only one driver may "
        "run.",
    )


class RunConfig(Section):
    """Configuration of `process`: slides, detection, crops, backbone, workers, store.

    Frozen; unknown fields and values out of range raise pydantic's `ValidationError`, `load_config` a `ConfigError`.
    docs/reference/configuration lists every field.

    Example:
        >>> import fossilray
        >>> config = fossilray.RunConfig()
        >>> smaller = fossilray.RunConfig(crops={"size_px": 128})
    """

    slides: SlidesConfig = Field(SlidesConfig(), description="Slides and how they are read.")
    tiling: TilingConfig = Field(TilingConfig(), description="Division of a slide into tiles.")
    detector: DetectorConfig = Field(DetectorConfig(), description="Object detector.")
    merge: MergeConfig = Field(MergeConfig(), description="Merging of boxes into objects.")
    crops: CropsConfig = Field(CropsConfig(), description="Extraction and storage of crops.")
    embedder: EmbedderConfig = Field(EmbedderConfig(), description="Backbone that embeds each crop.")
    workers: WorkersConfig = Field(WorkersConfig(), description="Use of the machine or cluster.")
    store: StoreConfig = Field(StoreConfig(), description="Run directory and access to it.")
    watch: WatchConfig = Field(WatchConfig(), description="Monitoring of the job.")
    cost: CostConfig = Field(CostConfig(), description="Prices of GPUs and cores.")

    @model_validator(mode="after")
    def _extended_crops_need_planes(self) -> Self:
        if self.crops.focus == "extended" and self.slides.planes == "middle":
            raise ValueError(
                "crops.focus extended needs slides.planes best or all: of one plane there is no other"
            )
        return self

    def what_changes_results(self) -> dict[str, Any]:
        """Fields that a resumed run must share, as plain JSON types."""
        plain = self.model_dump(mode="json")
        workers = plain["workers"]
        plain["workers"] = {name: workers[name] for name in ("torch_threads", "precision", "compile")}
        for section in ("store", "watch", "cost"):
            del plain[section]
        # Runs of earlier versions do not have these fields.
        for section, name, default in (
            ("slides", "name_pattern", None),
            ("slides", "planes", "middle"),
            ("crops", "focus", "sharpest"),
        ):
            if plain[section][name] == default:
                del plain[section][name]
        for name in (
            "source",
            "access",
            "scratch",
            "scratch_gb",
            "fetch_threads",
            "max_gigapixels",
            "max_objects",
            "unique_scans",
            "strict_doubts",
            "read_threads",
            "reader",
        ):
            del plain["slides"][name]
        return plain
