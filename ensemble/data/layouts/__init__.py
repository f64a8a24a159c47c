"""Readers of foreign files, one layout per module: nerd, robomimic, robosuite, d4rl, npz, pairs, or a map in the YAML.

`detect` finds the layout of a file; `hdf5`, `npz`, `mat`, `csv_file` and `table` open it as a `Container`; a reader
describes it as a `Recording`.
"""
