"""From HDF5 to windows: readers of foreign layouts, checked Parquet shards, splits, windows and statistics.

It knows no model. h5py is used here and nowhere else.
"""
