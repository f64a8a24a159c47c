"""Readers of foreign files, one layout a file: nerd, robomimic, robosuite, d4rl, npz, pairs, or any file through a map.

`detect` finds the layout of a file; `hdf5` and `npz` open it as a `Container`; a reader describes it as a `Recording`.
"""
