"""Configuration of jobs, trainings and curation."""

from fossilray.core.config.base import Section
from fossilray.core.config.curation import CurationConfig
from fossilray.core.config.job import CostConfig, WatchConfig, WorkersConfig
from fossilray.core.config.loading import (
    default_yaml,
    document_config,
    load_config,
    load_curation_config,
    load_train_config,
    parse_config,
)
from fossilray.core.config.run import (
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
from fossilray.core.config.training import TrainConfig

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
