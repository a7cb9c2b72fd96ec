"""Configuration of a training; each method has a recipe of defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fossilray.core.config.base import Section
from fossilray.core.config.choices import Precision, TrainingMethodName, ViewsKind
from fossilray.core.config.run import AccessConfig
from fossilray.core.config.training_recipes import merge_trees, recipe_for
from fossilray.core.config.training_supervised import MetricConfig, TransferConfig

NEED_LABELS: tuple[TrainingMethodName, ...] = ("supcon", "metric", "transfer")


class TrainDataConfig(Section):
    """Crops for training and for evaluation."""

    sources: tuple[str, ...] = Field(
        (),
        description="Run directories, compacted datasets (local or s3://) or folders of `<class>/<image>`.",
    )
    where: str | None = Field(None, description="SQL condition on the objects of runs.")
    curation: str | None = Field(
        None, description="Parquet file of `fossilray curate`: which crops are used, and how often."
    )
    access: AccessConfig | None = Field(None, description="Access to sources in an object store.")
    hold_out: tuple[str, ...] = Field(
        (), description="Classes that are never trained on; the probes evaluate the backbone on them."
    )
    validation_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the crops that is held out for the probes, in whole wells (or folders); used if "
        "neither data.hold_out nor probe.sources is given.",
    )
    threads: int = Field(4, ge=1, description="Threads that read and decode crops, per worker.")
    buffer: int = Field(8192, ge=1, description="Number of crops in the shuffle buffer of a worker.")
    held_gb: float = Field(
        4.0,
        ge=0,
        description="Labelled crops up to this many GB stay decoded in memory; larger sets are read each "
        "time.",
    )
    max_failed_share: float = Field(
        0.01, ge=0, le=1, description="Share of crops that may fail to decode before training stops."
    )


class ProbeConfig(Section):
    """Evaluation of the backbone during the training."""

    sources: tuple[str, ...] = Field(
        (), description="Folders of `<class>/<image>` on which the kNN probe evaluates the backbone."
    )
    every_epochs: int = Field(1, ge=1, description="Epochs between two probes.")
    crops: int = Field(2048, ge=2, description="Maximum number of crops of a probe.")
    neighbours: int = Field(5, ge=1, description="Number of neighbours of the kNN probe.")


class ScheduleConfig(Section):
    """Optimiser and schedules."""

    optimiser: Literal["adam", "adamw", "sgd"] = Field("adamw", description="Optimiser.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate, for the given batch size.")
    decay: Literal["cosine", "inverse_time", "step", "constant"] = Field(
        "cosine", description="Decay of the learning rate after the warm-up."
    )
    last_share: float = Field(
        0.0, ge=0, le=1, description="Share of the learning rate at which cosine decay ends."
    )
    inverse_time: float = Field(
        0.05, ge=0, description="For inverse-time decay: the rate is divided by 1 + this times the epoch."
    )
    step_epochs: float = Field(0.5, gt=0, description="For step decay: epochs between steps.")
    step_factor: float = Field(
        0.96, gt=0, le=1, description="For step decay: factor of the rate at each step."
    )
    warmup_share: float = Field(
        0.05, ge=0, lt=1, description="Share of the training during which the rate rises."
    )
    weight_decay: float = Field(
        0.05, ge=0, description="Weight decay of kernels; biases and norms have none."
    )
    last_weight_decay: float | None = Field(
        None, ge=0, description="Weight decay at the end, approached along a cosine; unset: constant."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of SGD.")
    clip: float | None = Field(
        None, gt=0, description="Maximum norm of the gradient of all parameters; unset: no clipping."
    )


class ViewsConfig(Section):
    """Random views of crops."""

    kind: ViewsKind = Field(
        "fossil",
        description="fossil: rotated in true proportions, with other staining and focus; paper: appendix C of "
        "Martinsen et al. 2024; multicrop: DINO's global and local crops, as published; "
        "multicrop_microscope: the same for transmitted light, rotated and never solarised; "
        "transfer: rotated, shifted, sheared, zoomed and flipped as in the code of Liu et al. "
        "2022; transfer_crop: the same for a random part of the crop.",
    )
    early_px: int | None = Field(
        None, ge=16, description="Side of the views in the first part of the training; unset: input_px."
    )
    early_share: float = Field(0.6, ge=0, le=1, description="Share of the training that uses early_px.")
    local_px: int = Field(48, ge=16, description="For multicrop: side of the local crops.")
    local_count: int = Field(6, ge=0, description="For multicrop: number of local crops per crop.")


class WhitenConfig(Section):
    """Whitening layer of the finished backbone, which brings views of one crop closer together."""

    dimension: int | None = Field(
        None, ge=2, description="Dimension of the whitened vectors; unset: no whitening layer."
    )
    crops: int = Field(2048, ge=2, description="Number of crops to which the layer is fitted.")
    views: int = Field(4, ge=2, description="Views of each crop.")
    shrinkage: float = Field(
        1.0,
        ge=0,
        description="Multiple of the mean variance that is added to the variance of every direction.",
    )


class SupconConfig(Section):
    """Cross-entropy and supervised contrast on labelled crops."""

    classes_per_batch: int = Field(16, ge=2, description="Number of classes in a batch, chosen at random.")
    crops_per_class: int = Field(4, ge=2, description="Crops of each class.")
    balance_groups: bool = Field(
        True, description="Draw equally many classes from each source, whatever their numbers of classes."
    )
    cross_entropy_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy.")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="Label smoothing of the cross-entropy.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of the features before the classifier.")
    contrast_weight: float = Field(1.0, ge=0, description="Weight of the supervised contrast.")
    temperature: float = Field(0.1, gt=0, description="Temperature of both contrastive terms.")
    projection: int = Field(128, ge=2, description="Dimension of the projected vectors.")
    unlabelled: int = Field(0, ge=0, description="Unlabelled crops added to a batch, for a SimCLR term.")
    unlabelled_weight: float = Field(0.5, ge=0, description="Weight of that term.")
    averaging: float = Field(
        0.99, ge=0, lt=1, description="Decay of the moving average of the weights, which is exported."
    )


class SimclrConfig(Section):
    """NT-Xent between two views (Chen et al. 2020, eq. 1)."""

    temperature: float = Field(0.1, gt=0, description="Temperature of the softmax over similarities.")
    hidden: int = Field(128, ge=2, description="Hidden units of the projection head.")
    projection: int = Field(128, ge=2, description="Dimension of the projected vectors.")


class DinoConfig(Section):
    """Self-distillation without labels (Caron et al. 2021)."""

    outputs: int = Field(65536, ge=2, description="Prototypes of the head.")
    hidden: int = Field(2048, ge=2, description="Hidden units of the head.")
    bottleneck: int = Field(256, ge=2, description="Units before the last layer.")
    normalised_last_layer: bool = Field(True, description="Keep the rows of the last layer at length 1.")
    student_temperature: float = Field(0.1, gt=0, description="Temperature of the student's softmax.")
    teacher_temperature: float = Field(0.04, gt=0, description="Final temperature of the teacher's softmax.")
    first_teacher_temperature: float = Field(
        0.04, gt=0, description="Initial temperature of the teacher's softmax."
    )
    teacher_warmup_share: float = Field(
        0.3, ge=0, le=1, description="Share of the training during which the teacher's temperature changes."
    )
    teacher_momentum: float = Field(
        0.996, ge=0, le=1, description="Initial momentum of the teacher; it rises to 1."
    )
    centre_momentum: float = Field(
        0.9, ge=0, lt=1, description="Momentum of the centre of the teacher's outputs."
    )
    frozen_last_layer_epochs: int = Field(
        1, ge=0, description="Epochs during which the last layer is frozen."
    )


class ByolConfig(Section):
    """A student that predicts its average's projection (Grill et al. 2020)."""

    hidden: int = Field(4096, ge=2, description="Hidden units of the projection and prediction heads.")
    projection: int = Field(256, ge=2, description="Dimension of the projected vectors.")
    momentum: float = Field(
        0.996, ge=0, le=1, description="Initial momentum of the moving average; it rises to 1."
    )


class SimsiamConfig(Section):
    """A prediction of the other view, whose gradient is stopped (Chen and He 2021)."""

    projection: int = Field(2048, ge=2, description="Dimension of the projected vectors.")
    hidden: int = Field(512, ge=2, description="Hidden units of the prediction head.")


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

    method: TrainingMethodName = Field(
        "supcon", description="Training method; supcon, metric and transfer need labels, the others do not."
    )
    arch: str | None = Field(
        None, description="timm name of the network; unset: that of the initial weights."
    )
    arch_kwargs: dict[str, Any] = Field({}, description="Further arguments of timm.create_model.")
    init: str = Field(
        "scratch",
        description="Initial weights: scratch, bundled, `timm:<name>` (from the hub) or `file:<path>`.",
    )
    frozen_stages: int = Field(
        0,
        ge=0,
        description="Number of first stages of the network, the stem included, whose weights stay fixed.",
    )
    input_px: int = Field(128, ge=16, description="Side in pixels of the network's input during training.")
    export_px: int | None = Field(
        None, ge=16, description="Side in pixels of the input of the finished backbone; unset: input_px."
    )
    name: str | None = Field(
        None, description="Name of the backbone's embeddings; unset: method and network."
    )
    data: TrainDataConfig = Field(TrainDataConfig(), description="Crops.")
    probe: ProbeConfig = Field(ProbeConfig(), description="Evaluation during the training.")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="Optimiser and schedules.")
    views: ViewsConfig = Field(ViewsConfig(), description="Random views.")
    whiten: WhitenConfig = Field(WhitenConfig(), description="Whitening layer of the finished backbone.")
    kept_start: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Weight of the initial weights in the finished backbone, by interpolation (Wortsman et "
        "al. 2022); a larger weight forgets less of what they were trained for.",
    )
    supcon: SupconConfig = Field(SupconConfig(), description="Options of the method supcon.")
    metric: MetricConfig = Field(MetricConfig(), description="Options of the method metric.")
    transfer: TransferConfig = Field(TransferConfig(), description="Options of the method transfer.")
    simclr: SimclrConfig = Field(SimclrConfig(), description="Options of the method simclr.")
    dino: DinoConfig = Field(DinoConfig(), description="Options of the method dino.")
    byol: ByolConfig = Field(ByolConfig(), description="Options of the method byol.")
    simsiam: SimsiamConfig = Field(SimsiamConfig(), description="Options of the method simsiam.")
    batch: int = Field(
        64,
        ge=2,
        description="Crops per batch and worker; for supcon and metric, classes_per_batch times "
        "crops_per_class instead.",
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="Batches whose gradients are summed before a step; contrast is computed within each "
        "batch.",
    )
    epochs: int | None = Field(
        None, ge=1, description="Epochs to train for; 100 if no other duration is given."
    )
    steps: int | None = Field(None, ge=1, description="Optimiser steps to train for.")
    minutes: float | None = Field(
        None, gt=0, description="Minutes to train for; the schedule then depends on the speed of the machine."
    )
    seed: int = Field(1, ge=0, description="Seed of initial weights, order and views.")
    precision: Precision = Field(
        "auto",
        description="auto: bfloat16 if the processor or GPU multiplies it natively; float32: always float32.",
    )
    torch_threads: int | None = Field(None, ge=1, description="PyTorch threads per worker; unset: all cores.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if there is one.")
    workers: int = Field(1, ge=1, description="Number of workers.")
    checkpoint_minutes: float = Field(10.0, gt=0, description="Minutes between two checkpoints.")
    kept_checkpoints: int = Field(2, ge=1, description="Number of checkpoints kept; older ones are deleted.")
    log_every: int = Field(10, ge=1, description="Steps between two rows of metrics.")

    @model_validator(mode="before")
    @classmethod
    def _start_from_the_recipe(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        recipe = recipe_for(given)
        has_duration = any(given.get(name) is not None for name in ("epochs", "steps", "minutes"))
        duration = {} if has_duration else {"epochs": 100}
        return merge_trees(merge_trees(duration, recipe), given)

    @model_validator(mode="after")
    def _has_one_end(self) -> Self:
        if sum(length is not None for length in (self.epochs, self.steps, self.minutes)) != 1:
            raise ValueError("give one of epochs, steps and minutes")
        if self.init == "scratch" and self.arch is None:
            raise ValueError("arch must name the network if init is scratch")
        if self.init == "scratch" and self.frozen_stages:
            raise ValueError("frozen_stages needs initial weights; with init=scratch there are none")
        if self.method == "transfer" and self.init == "scratch" and self.transfer.layers == "deep_half":
            raise ValueError(
                "transfer.layers=deep_half needs initial weights; with init=scratch set transfer.layers=all"
            )
        if self.init == "scratch" and self.kept_start:
            raise ValueError("kept_start needs initial weights; with init=scratch there are none")
        if self.init not in ("scratch", "bundled") and not self.init.startswith(("timm:", "file:")):
            raise ValueError("init must be scratch, bundled, timm:<name> or file:<path>")
        return self

    @model_validator(mode="after")
    def _learns_from_what_it_is_shown(self) -> Self:
        views = self.views
        if self.method != "dino" and views.kind.startswith("multicrop") and views.local_count:
            raise ValueError(
                f"views.kind={views.kind} gives {views.local_count} local crops of another size, which only dino uses, "
                f"and the method is {self.method}; set views.local_count=0, or another views.kind"
            )
        return self

    @property
    def seen_px(self) -> int:
        """Side in pixels of the input of the finished backbone."""
        return self.export_px or self.input_px

    def what_changes_results(self) -> dict[str, Any]:
        """Fields that a resumed training must share, as plain JSON types."""
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
