"""The figures of a report: one file a kind, all in one style. In `reporting`, matplotlib is loaded here only."""
