"""Which configuration to train next, and which to stop: Optuna's samplers and pruners behind one judge.

It imports neither Ray nor torch and reads no files of members, so that a search can be replayed on recorded curves.
"""
