"""Readers of foreign files, one layout per module, or a map in the YAML; `lerobot/` and `rollouts/` hold some of them.

`detect` finds the layout of a file; `hdf5`, `npz`, `mat`, `csv_file` and `table` open it as a `Container`; a reader
describes it as a `Recording`.
"""
