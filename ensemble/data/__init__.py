"""From HDF5 files to training windows: readers of foreign layouts, checked Parquet shards, splits, statistics.

Independent of any model. h5py is imported in this folder alone.
"""
