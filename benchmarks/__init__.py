"""Ratios of this package against what one would use instead, by subject: data, training, policies, study, search."""
