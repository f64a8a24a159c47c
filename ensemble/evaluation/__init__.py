"""Open-loop rollouts of dynamics models, and the trivial predictors beside them (floor 4)."""
