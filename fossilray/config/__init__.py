"""The one configuration of the slide job."""

from fossilray.config.base import Section
from fossilray.config.curation import CurationConfig
from fossilray.config.loading import (
    default_yaml,
    document_config,
    load_config,
    load_curation_config,
    load_train_config,
    parse_config,
)
from fossilray.config.sections import (
    AccessConfig,
    ClassicalConfig,
    CropsConfig,
    DetectorConfig,
    EmbedderConfig,
    MergeConfig,
    PassConfig,
    RunConfig,
    SlidesConfig,
    StoreConfig,
    TilingConfig,
)
from fossilray.config.training import TrainConfig
from fossilray.config.watching import CostConfig, WatchConfig
from fossilray.config.workers import WorkersConfig

__all__ = [
    "AccessConfig",
    "ClassicalConfig",
    "CostConfig",
    "CropsConfig",
    "CurationConfig",
    "DetectorConfig",
    "EmbedderConfig",
    "MergeConfig",
    "PassConfig",
    "RunConfig",
    "Section",
    "SlidesConfig",
    "StoreConfig",
    "TilingConfig",
    "TrainConfig",
    "WatchConfig",
    "WorkersConfig",
    "default_yaml",
    "document_config",
    "load_config",
    "load_curation_config",
    "load_train_config",
    "parse_config",
]
