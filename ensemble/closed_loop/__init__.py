"""Policies in their environment: trained members drive it; then the table, verdict, figure and film of that."""
