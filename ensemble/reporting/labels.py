"""Names of hyperparameters as short as they may be."""

from collections.abc import Sequence


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Shorten dotted keys as far as they differ: `train.optimizer.lr` is `lr`, `train.optimizer.name` `optimizer`."""
    trimmed = {key: key.removesuffix(".name").removesuffix(".family").split(".") for key in keys}
    names = {}
    for key, parts in trimmed.items():
        others = [other for k, other in trimmed.items() if k != key]
        lengths = range(1, len(parts) + 1)
        size = next((n for n in lengths if not any(other[-n:] == parts[-n:] for other in others)), None)
        names[key] = key if size is None else ".".join(parts[-size:])
    return names
