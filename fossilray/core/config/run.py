"""The one configuration of the slide job: frozen, unknown keys refused, units in the names."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from fossilray.core.config.base import KEPT_BACK, Section
from fossilray.core.config.choices import CropFit, SlideReader
from fossilray.core.config.job import CostConfig, WatchConfig, WorkersConfig
from fossilray.core.name_pattern import NamePattern


class AccessConfig(Section):
    """How an object store is reached; nothing here changes results. Credentials never stand here."""

    endpoint_url: str | None = Field(None, description="S3 endpoint, for stores other than AWS.")
    region: str | None = Field(None, description="S3 region.")
    profile: str | None = Field(None, description="Profile of the shared AWS credentials file.")
    anonymous: bool = Field(False, description="Reach public buckets without credentials.")
    tries: int = Field(
        8,
        ge=1,
        description="Tries of one request that is throttled, times out, is reset or answered by a server's fault, "
        "with waits that double and vary.",
    )
    timeout_s: float = Field(
        60.0, gt=0, description="Seconds without an answer after which a request counts as failed."
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
    """Which slides, and how they are read."""

    source: str | None = Field(
        None,
        description="Folder, glob, one slide, a catalog, or s3://bucket/folder; what `process` is given as SLIDES "
        "replaces it.",
    )
    access: AccessConfig | None = Field(
        None, description="How slides in an object store are reached; unset: as the run directory (`store`)."
    )
    scratch: str | None = Field(
        None,
        description="Local folder where slides from an object store are staged; unset: the system's temporary one.",
    )
    scratch_gb: float = Field(
        20.0, gt=0, description="Most GB a worker keeps staged, the slide in work and the next one together."
    )
    fetch_threads: int = Field(
        8, ge=1, description="Parts of a slide fetched side by side when it is staged."
    )
    max_gigapixels: float = Field(
        200.0,
        gt=0,
        description="A file that claims more level-0 pixels than this (in 1e9) is refused unread; a slide of the "
        "archive has about 7.",
    )
    max_objects: int = Field(
        1_000_000,
        ge=1,
        description="A slide in which the detector boxes more than this is refused: noise, where each speck is an "
        "object. A slide of the archive has about 20,000; 1,000,000 are 16 GB of crops.",
    )
    mpp: float | None = Field(
        None,
        gt=0,
        description="um per level-0 pixel for slides that state none and have none in the catalog.",
    )
    mpp_override: float | None = Field(
        None,
        gt=0,
        description="um per level-0 pixel used instead of what the slides state; recorded in the run.",
    )
    name_pattern: str | None = Field(
        None,
        description="Regular expression with the named groups `well` and `depth` (and `unit`: m or ft), searched in "
        "each file's name (without its ending) and its folders' names; unset, or where it does not match: the names "
        "that docs/guide/site-names.md lists.",
    )
    max_lost_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="A slide fails when a larger share of the foreground cannot be read in any pass of the detector, "
        "or a larger share of its crops only from a coarser level, or not at all.",
    )
    read_threads: int = Field(
        2, ge=1, description="Threads per worker that read and decode pixels; does not change results."
    )
    reader: SlideReader = Field(
        "auto",
        description="auto: the JPEG tiles of MIRAX, SVS and tiled TIFF slides are decoded without OpenSlide, on each "
        "level where the two are seen to agree to the bit; openslide: never. Does not change results.",
    )

    @field_validator("name_pattern")
    @classmethod
    def _pattern_can_be_searched(cls, text: str | None) -> str | None:
        if text is not None:
            NamePattern(text)
        return text


class TilingConfig(Section):
    """How a slide is divided into tiles."""

    tile_px: int | None = Field(
        None,
        ge=256,
        description="Longest side of a tile's core in level-0 pixels, in the finest pass; unset: windows of at most "
        "1856 px at the detection scale, or 2048 (as the paper) with `detector.seen_at_px` and exported networks.",
    )
    blank_um_per_px: float = Field(
        8.0, gt=0, description="Resolution, in um per pixel, of the overview that tells blank tiles."
    )
    blank_contrast: float = Field(
        6.0,
        ge=0,
        description="A place is blank when no overview pixel differs from the background by more grey levels "
        "than this; 0 looks at everything.",
    )


class PassConfig(Section):
    """One sweep of the detector over the slide at one scale."""

    um_per_px: float = Field(gt=0, description="Scale at which the detector sees the slide, in um per pixel.")
    smallest_um: float = Field(
        0.0, ge=0, description="Boxes whose longest side is shorter (um) are left to a finer pass."
    )
    largest_um: float = Field(
        gt=0,
        description="Largest object (longest side, um) this pass must see whole; a core is shown with half of it and "
        "64 px around.",
    )


class ClassicalConfig(Section):
    """The paper's classical segmentation; defaults are its values at 0.25 um per pixel."""

    gaussian_um: float = Field(1.25, gt=0, description="Sigma of the Gaussian blur, in um.")
    block_um: float = Field(
        100.0, gt=0, description="Side of the neighbourhood of the adaptive Gaussian threshold, in um."
    )
    offset: float = Field(
        8.0, description="Grey levels (0-255) below the neighbourhood's weighted mean that count as object."
    )
    min_area_um2: float = Field(
        250.0, ge=0, description="Smallest component kept, in um2 (the paper: 4000 px at 0.25 um per pixel)."
    )


class DetectorConfig(Section):
    """What finds the objects."""

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
        description="How an exported model's rows read: `objectness` (YOLOv5: box, objectness, classes), "
        "`classes` (YOLOv8 and later), `boxes` (corners, score, class; suppressed already), or decided from its "
        "shape.",
    )
    invert: bool | None = Field(
        None,
        description="Show the network 255 minus the colours, as the paper does; unset: what the weights ask "
        "for, else inverted.",
    )
    passes: tuple[PassConfig, ...] = Field(
        (
            PassConfig(um_per_px=1.0, smallest_um=0.0, largest_um=160.0),
            PassConfig(um_per_px=3.0, smallest_um=100.0, largest_um=1000.0),
        ),
        min_length=1,
        description="Sweeps from fine to coarse; large objects come from the coarse ones.",
    )
    seen_at_px: int | None = Field(
        None,
        ge=32,
        description="The paper's way of stating scale: the side in pixels at which a tile is seen (128 for a "
        "2048 px tile); replaces `passes` by a single one.",
    )
    confidence: float = Field(0.3, ge=0, le=1, description="Boxes that score lower are dropped.")
    iou: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Within a tile, of two boxes that overlap more than this the lower is dropped.",
    )
    batch: int = Field(4, ge=1, description="Tiles per forward pass.")
    max_per_tile: int = Field(3000, ge=1, description="Most boxes kept from one tile.")
    classical: ClassicalConfig = Field(ClassicalConfig(), description="Parameters of the classical detector.")

    @property
    def is_exported(self) -> bool:
        """Whether the network was exported, perhaps for images of one size alone."""
        return self.kind == "yolo" and self.weights.lower().endswith((".onnx", ".torchscript"))

    @model_validator(mode="after")
    def _passes_run_fine_to_coarse(self) -> Self:
        scales = [sweep.um_per_px for sweep in self.passes]
        if scales != sorted(set(scales)):
            raise ValueError("passes must go from fine to coarse (um_per_px rising)")
        for sweep in self.passes:
            if sweep.smallest_um >= sweep.largest_um:
                raise ValueError("a pass needs smallest_um below largest_um")
        return self


class MergeConfig(Section):
    """How boxes of neighbouring tiles and passes become objects."""

    same_object_iou: float = Field(
        0.5, gt=0, le=1, description="Boxes of different tiles or passes that overlap more are one object."
    )
    isolated_overlap: float = Field(
        0.001,
        ge=0,
        le=1,
        description="An object whose largest IoU with another is below this is isolated (paper).",
    )


class CropsConfig(Section):
    """How objects are cut out and stored."""

    size_px: int = Field(224, ge=16, le=1024, description="Side of a stored crop in pixels.")
    fit: CropFit = Field(
        "stretch",
        description="`stretch` fills the square as the paper does; `letterbox` keeps the aspect ratio.",
    )
    encoding: Literal["jpeg", "lossless"] = Field("jpeg", description="How crops are stored in Zarr.")
    jpeg_quality: int = Field(90, ge=1, le=100, description="JPEG quality of stored crops.")


class EmbedderConfig(Section):
    """What describes each crop by a vector."""

    weights: str = Field(
        "bundled",
        description="`bundled`, `none` (detection and crops alone), `timm:<name>` (weights from a hub), or "
        "`file:<path>` (DINO, SCAMPI or timm state dict, .safetensors or .pth).",
    )
    architecture: str | None = Field(
        None, description="timm name of the network inside `file:` weights; unset: inferred from them."
    )
    input_px: int | None = Field(
        None,
        ge=16,
        le=1024,
        description="Side in pixels at which the network sees a crop; unset: what its weights were made for. "
        "Position embeddings are interpolated.",
    )
    batch: int = Field(64, ge=1, description="Crops per forward pass.")


class StoreConfig(AccessConfig):
    """The run directory and how it is reached; nothing here changes results."""

    run: str | None = Field(
        None,
        description="Run directory, a local path or s3://…; what `process` is given as --run replaces it.",
    )
    patience_minutes: float = Field(
        30.0,
        ge=0,
        description="How long the job waits for a store that answers no request, or refuses them all, before it stops.",
    )
    single_writer: bool = Field(
        False, description="Promise that one driver alone commits, for stores without conditional create."
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

    slides: SlidesConfig = Field(SlidesConfig(), description="Which slides, and how they are read.")
    tiling: TilingConfig = Field(TilingConfig(), description="How slides are cut into tiles.")
    detector: DetectorConfig = Field(DetectorConfig(), description="What finds the objects.")
    merge: MergeConfig = Field(MergeConfig(), description="How boxes become objects.")
    crops: CropsConfig = Field(CropsConfig(), description="How objects are cut out and stored.")
    embedder: EmbedderConfig = Field(EmbedderConfig(), description="What describes each crop.")
    workers: WorkersConfig = Field(WorkersConfig(), description="How the machine or cluster is used.")
    store: StoreConfig = Field(StoreConfig(), description="How the run directory is reached.")
    watch: WatchConfig = Field(WatchConfig(), description="How the job is watched.")
    cost: CostConfig = Field(CostConfig(), description="What is paid for what workers hold.")

    def what_changes_results(self) -> dict[str, Any]:
        """The part of the configuration that a resumed run must share, as plain JSON types."""
        plain = self.model_dump(mode="json")
        workers = plain["workers"]
        plain["workers"] = {name: workers[name] for name in ("torch_threads", "precision", "compile")}
        for section in ("store", "watch", "cost"):
            del plain[section]
        # Without a pattern there is nothing to record; runs from before there were patterns have none either.
        if plain["slides"]["name_pattern"] is None:
            del plain["slides"]["name_pattern"]
        for name in (
            "source",
            "access",
            "scratch",
            "scratch_gb",
            "fetch_threads",
            "max_gigapixels",
            "max_objects",
            "read_threads",
            "reader",
        ):
            del plain["slides"][name]
        return plain
