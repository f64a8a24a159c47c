"""What an experiment file amounts to before anything runs: models, memory, FLOPs, hours. Nothing is trained."""
