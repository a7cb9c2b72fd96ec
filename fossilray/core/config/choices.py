"""Choices that the configuration, the library and the command line share, each spelled once."""

from __future__ import annotations

from typing import Literal

# Training
TrainingMethodName = Literal["supcon", "metric", "transfer", "simclr", "dino", "byol", "simsiam"]
MetricLossName = Literal["triplet", "multisimilarity", "proxyanchor", "supcon"]
MetricMiner = Literal["auto", "none", "all", "semihard", "hard", "multisimilarity"]
ViewsKind = Literal["fossil", "paper", "multicrop", "multicrop_microscope", "transfer", "transfer_crop"]

# Heads and their evaluation
HeadKind = Literal["knn", "logistic", "linear", "svm", "mlp"]
NoveltyKind = Literal["knn", "mahalanobis"]
HoldOutUnit = Literal["crops", "wells"]
Distance = Literal["euclidean", "cosine"]

# Labels
SuggestionStrategy = Literal["mixed", "badge", "uncertain", "far", "typical", "random"]

# Crops and networks
CropFit = Literal["stretch", "letterbox"]
SlideReader = Literal["auto", "openslide"]
FocusPlanes = Literal["middle", "best", "all"]
CropFocus = Literal["sharpest", "extended"]
Precision = Literal["auto", "float32"]

# Results
TableFormat = Literal["csv", "json", "parquet"]
ResultFormat = Literal["table", "csv", "json", "parquet"]
BoxFormat = Literal["geojson", "csv"]
NO_PREDICTIONS = "none"
"""Name of predictions that stands for none, where a name is chosen."""
SplitBy = Literal["auto", "well", "slide"]
TaxonRank = Literal["species", "genus", "family", "group"]
"""From fine to coarse."""
NotFossils = Literal["classes", "leave-out"]
UncertainLabels = Literal["leave-out", "train"]
PredictedNames = Literal["refuse", "leave-out", "checked"]
"""Of a source of labels: `checked` if a person has looked at each."""
TaxonOrder = Literal["last-occurrence", "first-occurrence", "abundance", "name"]

# Identification
ImageView = Literal["auto", "crop", "field"]
ResolutionSource = Literal["file", "sidecar", "given"]

# Plates
PlateScale = Literal["each", "common"]
PlateLetters = Literal["upper", "lower", "numbers"]
