"""Exchange with the code of tiny pi0 and tiny pi0-FAST: their weights as a run, and runs as their folders."""
