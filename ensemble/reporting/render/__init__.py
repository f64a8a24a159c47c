"""A report in each of its formats: page, Markdown, LaTeX and terminal. What is said is decided in `contents`."""
