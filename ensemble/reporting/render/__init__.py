"""A report in each of its formats: page, Markdown, LaTeX, CSV and terminal. `contents` decides what it says."""
