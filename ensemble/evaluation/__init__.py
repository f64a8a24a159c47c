"""Open-loop rollouts of dynamics models and the trivial predictors beside them, closed loops of policies (floor 5)."""
