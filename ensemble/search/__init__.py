"""Which configuration to train next, and which to stop: Optuna's samplers and pruners behind one judge.

It knows no Ray, no torch and no files of members, so that a search can be replayed on recorded curves.
"""
