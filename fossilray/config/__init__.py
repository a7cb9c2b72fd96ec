"""The one configuration of the slide job."""

from fossilray.config.curation import CurationConfig
from fossilray.config.loading import (
    default_yaml,
    document_config,
    load_config,
    load_curation_config,
    load_train_config,
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
    Section,
    SlidesConfig,
    StoreConfig,
    TilingConfig,
    WorkersConfig,
)
from fossilray.config.training import TrainConfig

__all__ = [
    "AccessConfig",
    "ClassicalConfig",
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
    "WorkersConfig",
    "default_yaml",
    "document_config",
    "load_config",
    "load_curation_config",
    "load_train_config",
]
