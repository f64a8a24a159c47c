"""Distributed training of robot-learning ensembles."""

__version__ = "0.1.0"
