"""The configuration of a training of a backbone; each method brings a recipe that what is given replaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fossilray.core.config.base import Section
from fossilray.core.config.choices import Precision, TrainingMethod, ViewsKind
from fossilray.core.config.run import AccessConfig
from fossilray.core.config.training_recipes import merge_trees, recipe_for
from fossilray.core.config.training_supervised import MetricConfig, TransferConfig

NEED_LABELS: tuple[TrainingMethod, ...] = ("supcon", "metric", "transfer")


class TrainDataConfig(Section):
    """Which crops are learned from, and which are kept apart to judge by."""

    sources: tuple[str, ...] = Field(
        (),
        description="Run directories, compacted datasets (local or s3://) or folders of `<class>/<image>`.",
    )
    where: str | None = Field(None, description="SQL condition on the objects of runs.")
    curation: str | None = Field(None, description="Parquet of `fossilray curate`: which crops, how often.")
    access: AccessConfig | None = Field(None, description="How sources in an object store are reached.")
    hold_out: tuple[str, ...] = Field(
        (), description="Classes never trained on; the probes judge the backbone by them."
    )
    validation_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the crops kept apart for the probes, whole wells (or folders); counts where neither "
        "data.hold_out nor probe.sources is given.",
    )
    threads: int = Field(4, ge=1, description="Threads that read and decode crops, per worker.")
    buffer: int = Field(8192, ge=1, description="Crops that a worker shuffles among.")
    held_gb: float = Field(
        4.0,
        ge=0,
        description="Labelled crops up to so many GB stay decoded in memory; more are read each time.",
    )
    max_failed_share: float = Field(
        0.01, ge=0, le=1, description="Share of crops that may not decode before training stops."
    )


class ProbeConfig(Section):
    """What is measured of the backbone while it learns."""

    sources: tuple[str, ...] = Field(
        (), description="Folders of `<class>/<image>` that the kNN probe judges by."
    )
    every_epochs: int = Field(1, ge=1, description="Epochs between two probes.")
    crops: int = Field(2048, ge=2, description="Most crops of a probe.")
    neighbours: int = Field(5, ge=1, description="Neighbours that vote.")


class ScheduleConfig(Section):
    """The optimiser and what changes while it runs."""

    optimiser: Literal["adam", "adamw", "sgd"] = Field("adamw", description="Who changes the weights.")
    learning_rate: float = Field(
        2e-3, gt=0, description="Highest learning rate, for the batch as it is given."
    )
    decay: Literal["cosine", "inverse_time", "step", "constant"] = Field(
        "cosine", description="How the learning rate falls after the warm-up."
    )
    last_share: float = Field(
        0.0, ge=0, le=1, description="Share of the learning rate that a cosine ends at."
    )
    inverse_time: float = Field(
        0.05, ge=0, description="Of inverse-time decay: the rate is divided by 1 + this times the epoch."
    )
    step_epochs: float = Field(0.5, gt=0, description="Of step decay: epochs from one step to the next.")
    step_factor: float = Field(
        0.96, gt=0, le=1, description="Of step decay: what the rate is multiplied by at each step."
    )
    warmup_share: float = Field(
        0.05, ge=0, lt=1, description="Share of the training in which the rate rises."
    )
    weight_decay: float = Field(0.05, ge=0, description="Weight decay of kernels; vectors have none.")
    last_weight_decay: float | None = Field(
        None, ge=0, description="Weight decay at the end, along a cosine; unset: it stays."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD.")
    clip: float | None = Field(
        None, gt=0, description="Longest gradient of all parameters together; unset: any."
    )


class ViewsConfig(Section):
    """The random views that a backbone is shown."""

    kind: ViewsKind = Field(
        "fossil",
        description="fossil: turned in true proportions, other staining and focus; paper: appendix C of Martinsen et "
        "al. 2024; multicrop: DINO's global and local crops, as published; multicrop_microscope: the same for "
        "transmitted light, turned and never solarised; transfer: turned, shifted, sheared, zoomed and flipped as in "
        "the code of Liu et al. 2022; transfer_crop: the same of a random part of the crop.",
    )
    early_px: int | None = Field(None, ge=16, description="Side of the views at first; unset: input_px.")
    early_share: float = Field(0.6, ge=0, le=1, description="Share of the training that early_px lasts.")
    local_px: int = Field(48, ge=16, description="Of multicrop: side of the local crops.")
    local_count: int = Field(6, ge=0, description="Of multicrop: local crops of each crop.")


class WhitenConfig(Section):
    """A last layer of the finished backbone, under which views of one crop come to lie together."""

    dimension: int | None = Field(
        None, ge=2, description="Numbers it leaves of a vector; unset: no such layer."
    )
    crops: int = Field(2048, ge=2, description="Crops that it is fitted to.")
    views: int = Field(4, ge=2, description="Views of each.")
    shrinkage: float = Field(
        1.0, ge=0, description="Times the mean variance that every direction's variance is enlarged by."
    )


class SupconConfig(Section):
    """Cross-entropy and supervised contrast on labelled crops."""

    classes_per_batch: int = Field(16, ge=2, description="Classes of a batch, drawn at random.")
    crops_per_class: int = Field(4, ge=2, description="Crops of each.")
    balance_groups: bool = Field(
        True, description="As many classes of each source in a batch, however many classes a source has."
    )
    cross_entropy_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Of the cross-entropy.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Of the features before the classes.")
    contrast_weight: float = Field(1.0, ge=0, description="Weight of the supervised contrast.")
    temperature: float = Field(0.1, gt=0, description="Of both contrasts.")
    projection: int = Field(128, ge=2, description="Length of the vectors that are contrasted.")
    unlabelled: int = Field(0, ge=0, description="Unlabelled crops added to a batch, for a SimCLR term.")
    unlabelled_weight: float = Field(0.5, ge=0, description="Weight of that term.")
    averaging: float = Field(
        0.99, ge=0, lt=1, description="Decay of the averaged weights, which are exported."
    )


class SimclrConfig(Section):
    """NT-Xent between two views (Chen et al. 2020, eq. 1)."""

    temperature: float = Field(0.1, gt=0, description="Of the softmax over similarities.")
    hidden: int = Field(128, ge=2, description="Hidden units of the projection.")
    projection: int = Field(128, ge=2, description="Length of the vectors that are compared.")


class DinoConfig(Section):
    """Self-distillation without labels (Caron et al. 2021)."""

    outputs: int = Field(65536, ge=2, description="Prototypes of the head.")
    hidden: int = Field(2048, ge=2, description="Hidden units of the head.")
    bottleneck: int = Field(256, ge=2, description="Units before the last layer.")
    normalised_last_layer: bool = Field(True, description="Whether the last layer's rows keep length 1.")
    student_temperature: float = Field(0.1, gt=0, description="Of the student's softmax.")
    teacher_temperature: float = Field(0.04, gt=0, description="Of the teacher's softmax, in the end.")
    first_teacher_temperature: float = Field(0.04, gt=0, description="Of the teacher's softmax, at first.")
    teacher_warmup_share: float = Field(0.3, ge=0, le=1, description="Share of the training between the two.")
    teacher_momentum: float = Field(0.996, ge=0, le=1, description="Of the teacher at first; it rises to 1.")
    centre_momentum: float = Field(0.9, ge=0, lt=1, description="Of the centre of the teacher's outputs.")
    frozen_last_layer_epochs: int = Field(1, ge=0, description="Epochs in which the last layer stays.")


class ByolConfig(Section):
    """A student that predicts its average's projection (Grill et al. 2020)."""

    hidden: int = Field(4096, ge=2, description="Hidden units of projection and prediction.")
    projection: int = Field(256, ge=2, description="Length of a projection.")
    momentum: float = Field(0.996, ge=0, le=1, description="Of the average at first; it rises to 1.")


class SimsiamConfig(Section):
    """A prediction of the other view, whose gradient is stopped (Chen and He 2021)."""

    projection: int = Field(2048, ge=2, description="Length of a projection.")
    hidden: int = Field(512, ge=2, description="Hidden units of the prediction.")


class TrainConfig(Section):
    """Configuration of `train`: method, network, crops, views, schedule.

    A field that is not given takes the value of the method's recipe, if that has one, else the default. Frozen; unknown
    fields and values out of range raise pydantic's `ValidationError`, `load_train_config` a `ConfigError`.
    docs/reference/configuration/training.md lists every field.

    Example:
        >>> import fossilray
        >>> config = fossilray.TrainConfig(
        ...     method="simclr", arch="resnet18", data={"sources": ["census"]}, steps=1000
        ... )
    """

    method: TrainingMethod = Field(
        "supcon", description="How it learns; supcon, metric and transfer need labels, the others none."
    )
    arch: str | None = Field(
        None, description="timm's name of the network; unset: that of the weights it starts from."
    )
    arch_kwargs: dict[str, Any] = Field({}, description="What timm.create_model is told besides.")
    init: str = Field("scratch", description="scratch, `timm:<name>` (weights of the hub) or `file:<path>`.")
    frozen_stages: int = Field(
        0,
        ge=0,
        description="First stages of the network that keep the weights they start with, the stem being one.",
    )
    input_px: int = Field(128, ge=16, description="Side of the square that the backbone learns on.")
    export_px: int | None = Field(
        None, ge=16, description="Side at which the finished backbone sees crops; unset: input_px."
    )
    name: str | None = Field(None, description="What its embeddings are called; unset: method and network.")
    data: TrainDataConfig = Field(TrainDataConfig(), description="Crops.")
    probe: ProbeConfig = Field(ProbeConfig(), description="What is measured on the way.")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="Optimiser and schedules.")
    views: ViewsConfig = Field(ViewsConfig(), description="Random views.")
    whiten: WhitenConfig = Field(WhitenConfig(), description="Last layer of the finished backbone.")
    kept_start: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the weights that init brought in the finished backbone's (Wortsman et al. 2022): more "
        "of it forgets less of what the start knew.",
    )
    supcon: SupconConfig = Field(SupconConfig(), description="Of method supcon.")
    metric: MetricConfig = Field(MetricConfig(), description="Of method metric.")
    transfer: TransferConfig = Field(TransferConfig(), description="Of method transfer.")
    simclr: SimclrConfig = Field(SimclrConfig(), description="Of method simclr.")
    dino: DinoConfig = Field(DinoConfig(), description="Of method dino.")
    byol: ByolConfig = Field(ByolConfig(), description="Of method byol.")
    simsiam: SimsiamConfig = Field(SimsiamConfig(), description="Of method simsiam.")
    batch: int = Field(
        64,
        ge=2,
        description="Crops of a batch on each worker; of supcon and metric classes times crops say it.",
    )
    accumulate: int = Field(
        1, ge=1, description="Batches whose gradients are summed; each is contrasted within itself."
    )
    epochs: int | None = Field(
        None, ge=1, description="Epochs to train for; 100 where no other length is given either."
    )
    steps: int | None = Field(None, ge=1, description="Steps of the optimiser to train for.")
    minutes: float | None = Field(
        None, gt=0, description="Minutes to train for; the curve then depends on how fast the machine is."
    )
    seed: int = Field(1, ge=0, description="Of weights, order and views.")
    precision: Precision = Field(
        "auto", description="auto: bfloat16 where the processor multiplies it natively."
    )
    torch_threads: int | None = Field(
        None, ge=1, description="Threads of PyTorch in a worker; unset: all cores."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one.")
    workers: int = Field(1, ge=1, description="Workers that train together.")
    checkpoint_minutes: float = Field(10.0, gt=0, description="Minutes between two checkpoints.")
    kept_checkpoints: int = Field(2, ge=1, description="Checkpoints kept; older ones are removed.")
    log_every: int = Field(10, ge=1, description="Steps between two rows of metrics.")

    @model_validator(mode="before")
    @classmethod
    def _start_from_the_recipe(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        recipe = recipe_for(given)
        says_how_long = any(given.get(name) is not None for name in ("epochs", "steps", "minutes"))
        lasting = {} if says_how_long else {"epochs": 100}
        return merge_trees(merge_trees(lasting, recipe), given)

    @model_validator(mode="after")
    def _has_one_end(self) -> Self:
        if sum(length is not None for length in (self.epochs, self.steps, self.minutes)) != 1:
            raise ValueError("give one of epochs, steps and minutes")
        if self.init == "scratch" and self.arch is None:
            raise ValueError("arch must name the network that starts from scratch")
        if self.init == "scratch" and self.frozen_stages:
            raise ValueError("frozen_stages keeps weights that init brings; from scratch there are none")
        if self.method == "transfer" and self.init == "scratch" and self.transfer.layers == "deep_half":
            raise ValueError(
                "transfer.layers=deep_half keeps weights that init brings; from scratch set transfer.layers=all"
            )
        if self.init == "scratch" and self.kept_start:
            raise ValueError("kept_start keeps weights that init brings; from scratch there are none")
        if self.init != "scratch" and not self.init.startswith(("timm:", "file:")):
            raise ValueError("init must be scratch, timm:<name> or file:<path>")
        return self

    @model_validator(mode="after")
    def _learns_from_what_it_is_shown(self) -> Self:
        views = self.views
        if self.method != "dino" and views.kind.startswith("multicrop") and views.local_count:
            raise ValueError(
                f"views.kind={views.kind} shows {views.local_count} local crops of another size, from which dino alone "
                f"learns, and the method is {self.method}; set views.local_count=0, or another views.kind"
            )
        return self

    @property
    def seen_px(self) -> int:
        """Side at which the finished backbone sees crops."""
        return self.export_px or self.input_px

    def what_changes_results(self) -> dict[str, Any]:
        """The part that a resumed training must share, as plain JSON types."""
        plain = self.model_dump(mode="json")
        for name in (
            "probe",
            "epochs",
            "steps",
            "minutes",
            "workers",
            "device",
            "torch_threads",
            "checkpoint_minutes",
            "kept_checkpoints",
            "log_every",
            "name",
            "export_px",
            "precision",
        ):
            del plain[name]
        for name in ("access", "threads", "held_gb", "max_failed_share"):
            del plain["data"][name]
        return plain
