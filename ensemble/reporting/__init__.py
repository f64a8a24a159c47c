"""From the Parquet files of a run to tables, figures and a page. No torch, no Ray; matplotlib only to draw.

The way through: `run` reads, `summary` groups members by configuration, `tables` lays out rows, `figures` draws,
`markdown` and `html` render, `report` ties them together.
"""
