"""What `evaluate` is told of the protocols that may train: karaderi2021 and liu2022."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fossilray.core.errors import UsageError

if TYPE_CHECKING:
    from fossilray.core.types import OnProgress
    from fossilray.evaluation.output import Evaluation
    from fossilray.evaluation.protocol_training import ProtocolTraining
    from fossilray.labels.embed import EmbeddedCrops
    from fossilray.labels.load import LabelledSet


@dataclass(frozen=True)
class SupervisedOptions:
    """Options of `evaluate` that the other protocols have not."""

    train: bool
    training: Path | None
    train_set: list[str] | None
    withhold: list[str] | None
    withheld: int | None
    reduced: list[int] | None
    compare: bool

    def refuse_strangers(self, protocol: str) -> None:
        """Raises:
        UsageError: an option was given that this protocol does not know.
        """
        of_training = {"--training": self.training, "--train-set": self.train_set, "--compare": self.compare}
        known: dict[str, dict[str, object]] = {
            "karaderi2021": {"--train": self.train, "--withhold": self.withhold, "--withheld": self.withheld},
            "liu2022": {"--train": self.train, "--reduced": self.reduced, "--compare": self.compare},
        }
        for other, options in known.items():
            for name, value in options.items():
                if value and name not in known.get(protocol, {}):
                    raise UsageError(
                        f"{name} is an option of --protocol {other}, not of {protocol}; leave it out"
                    )
        for name, value in of_training.items():
            if value and not self.train:
                raise UsageError(f"{name} says how to train, and nothing is trained; add --train")
        if self.withhold and self.withheld:
            raise UsageError(
                "--withhold names the classes and --withheld how many are drawn; give one of them"
            )

    def evaluate(
        self,
        labelled: LabelledSet,
        described: EmbeddedCrops | None,
        *,
        protocol: str,
        backbone: str,
        out: Path,
        labels: str,
        splits: int | None,
        maps: bool,
        input_px: int | None,
        seed: int,
        on_progress: OnProgress,
    ) -> Evaluation:
        """Judge vectors, or where there are none trainings from this backbone on."""
        from fossilray.evaluation.metric_learning import evaluate_metric_learning
        from fossilray.evaluation.transfer import COMPARED_SETTINGS, evaluate_transfer

        metric = protocol == "karaderi2021"

        def training(name: str, *more: str) -> ProtocolTraining:
            from fossilray.evaluation.protocol_training import ProtocolTraining, protocol_train_config

            config = protocol_train_config(
                backbone,
                method="metric" if metric else "transfer",
                path=self.training,
                assignments=[f"seed={seed + 1}", *(self.train_set or []), *more],
                input_px=input_px,
            )
            return ProtocolTraining(labelled, config, folder=out / name)

        given = training("trainings") if described is None else described
        if metric:
            groups = [[one.strip() for one in text.split(",") if one.strip()] for text in self.withhold or ()]
            return evaluate_metric_learning(
                labelled,
                given,
                out=out,
                labels=labels,
                splits=splits,
                withhold=groups,
                withheld_size=self.withheld,
                maps=maps,
                seed=seed,
                on_progress=on_progress,
            )
        compared = {
            name: training("trainings", *settings)
            for name, settings in COMPARED_SETTINGS.items()
            if self.compare
        }
        return evaluate_transfer(
            labelled,
            given,
            out=out,
            labels=labels,
            splits=1 if splits is None else splits,
            reduced=self.reduced or (),
            compared=compared,
            seed=seed,
            on_progress=on_progress,
        )
