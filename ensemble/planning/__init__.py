"""Forecast of an experiment file before anything runs: models, memory, FLOPs, time. Nothing is trained."""
