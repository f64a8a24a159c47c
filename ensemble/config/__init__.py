"""Experiment files: sections, distributions, reading, checks and expansion."""

from ensemble.config.base import Section
from ensemble.config.data import DataConfig
from ensemble.config.document import Position
from ensemble.config.experiment import (
    EnsembleConfig,
    EvaluationConfig,
    Experiment,
    LoggingConfig,
    ResourcesConfig,
    SearchConfig,
)
from ensemble.config.json_schema import json_schema, render_json_schema, render_schema_text
from ensemble.config.loading import ExperimentFile, find_space, load, shipped
from ensemble.config.model import ModelConfig
from ensemble.config.space import Choice, Distribution, Int, IntLog, LogUniform, Uniform
from ensemble.config.train import TrainConfig
from ensemble.config.tree import flatten

__all__ = [
    "Choice",
    "DataConfig",
    "Distribution",
    "EnsembleConfig",
    "EvaluationConfig",
    "Experiment",
    "ExperimentFile",
    "Int",
    "IntLog",
    "LogUniform",
    "LoggingConfig",
    "ModelConfig",
    "Position",
    "ResourcesConfig",
    "SearchConfig",
    "Section",
    "TrainConfig",
    "Uniform",
    "find_space",
    "flatten",
    "json_schema",
    "load",
    "render_json_schema",
    "render_schema_text",
    "shipped",
]
