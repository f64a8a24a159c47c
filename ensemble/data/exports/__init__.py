"""Data sets for other programs, from files or shards: `export` checks and converts, one writer a program."""
