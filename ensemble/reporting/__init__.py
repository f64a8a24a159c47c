"""From the Parquet files of a run to tables, figures and a page. No torch, no Ray; matplotlib only to draw.

The way through: `run` reads, `summary` groups members by configuration, `tables` lays out rows, `figures` draws,
`markdown`, `html`, `latex` and `terminal` render, `report` ties them together.

After a search `trials` reads what it left, `ranking` orders, `leaderboard`, `versus` (on `comparison`) and `ledger` lay
out `sheets`, `findings` says what they amount to, `search_figures` and `parameter_figures` draw. `ensemble explain` is
`lineage` and `rebuild`.
"""
