"""From an experiment file to finished members: data made ready, trials run by Ray Tune, progress shown (floor 7)."""
