"""One run from beginning to end, on Ray: data made ready, trials run by Ray Tune, rows collected, Ctrl-C and resume."""
