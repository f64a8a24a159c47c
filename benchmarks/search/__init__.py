"""Claims about search, on a recorded table of learning curves: nothing is trained."""
