"""Errors of open-loop rollouts, and the trivial predictors that every model is compared with (floor 5)."""
