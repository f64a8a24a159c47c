"""Nested mappings as mappings of dotted paths."""

import json
from collections.abc import Mapping
from typing import Any


def leaves(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {dotted path: value}; lists and empty mappings are values."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat |= leaves(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def flatten(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return {dotted path: scalar}. Lists and empty mappings become their JSON text."""
    return {
        path: json.dumps(value) if isinstance(value, list | tuple | Mapping) else value
        for path, value in leaves(mapping).items()
    }
