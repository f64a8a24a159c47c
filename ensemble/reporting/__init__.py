"""From the Parquet files of a run to tables, figures and a page. No torch, no Ray; matplotlib only to draw.

The way through: `run` reads, `groups` sorts members by configuration, `results` lays them out as a `table`, `contents`
adds what else a report says, `figures/` draws, `render/` has a renderer for each format, `report` writes and prints.

After a search `search_run` reads what it left; `leaderboard`, `versus` (on `comparison`) and `ledger` lay out its
tables, and `search_report` says what they amount to. `ensemble explain` is `explain` and `rebuild`.
"""
