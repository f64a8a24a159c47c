"""Proposals for a name that an experiment does not have: each is something that `--set` takes as it stands.

A path leads through the members of unions that this experiment has chosen (its optimizer, its family); what another
member has is proposed as that whole member.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ensemble.config.base import Section
from ensemble.config.experiment import Experiment
from ensemble.config.fields import Kind, field_kind, keys_of
from ensemble.text import did_you_mean, nearest

# Where a name that several sections have is meant most likely.
_ORDER = ("train", "model", "ensemble", "search", "resources", "logging", "data")
_MOST = 2  # paths in a message
_ALIKE = 0.75  # of names anywhere, which are many

_ELSEWHERE = {  # other trainers' words for what is called differently here
    **dict.fromkeys(("learning_rate", "learningrate", "lr_start", "max_lr"), "lr"),
    **dict.fromkeys(("epochs", "num_epochs", "max_steps", "num_steps", "iterations", "total_steps"), "steps"),
    **dict.fromkeys(("hidden_size", "hidden_dim", "d_model", "dim", "width", "embed_dim"), "n_embd"),
    **dict.fromkeys(("layers", "num_layers", "depth", "num_hidden_layers"), "n_layer"),
    **dict.fromkeys(("heads", "num_heads", "num_attention_heads"), "n_head"),
    **dict.fromkeys(("bs", "batch", "batchsize"), "batch_size"),
    **dict.fromkeys(("clip", "grad_clip", "max_grad_norm"), "gradient_clip"),
    **dict.fromkeys(("scheduler", "lr_schedule", "lr_scheduler"), "schedule"),
    **dict.fromkeys(("min_lr", "lr_min", "final_lr"), "lr_end"),
    "warmup": "warmup_steps",
    "early_stopping": "patience",
    **dict.fromkeys(("gpus", "num_gpus"), "gpus_per_worker"),
    **dict.fromkeys(("cpus", "num_cpus"), "cpus_per_worker"),
    **dict.fromkeys(("num_trials", "n_trials"), "trials"),
    **dict.fromkeys(("num_seeds", "n_seeds"), "seeds"),
    **dict.fromkeys(("dataset", "file", "data_path"), "path"),
}


def unknown_key_hint(name: str, owner: type[Section], tree: Any) -> str:
    """Return what follows `unknown key 'name'` in a section `owner` of an experiment with the plain values `tree`."""
    near, homes = nearest(name, owner.model_fields), _homes(name, tree)
    if near and homes:
        return f"; did you mean {near[0]!r}, or {homes[0]}?"
    if near:
        return did_you_mean(name, owner.model_fields)
    if homes:
        return f"; there is {' and '.join(homes)}"
    if other := _in_another_member(_ELSEWHERE.get(name.lower(), name)):
        return f"; for that, set {other}"
    return _similar(name, tree) or f"; known: {', '.join(owner.model_fields)}"


def by_likelihood(paths: Iterable[str]) -> list[str]:
    """Sort dotted paths by the section that is meant most likely, then as they came."""
    rank = {name: index for index, name in enumerate(_ORDER)}
    return sorted(paths, key=lambda path: rank.get(re.split(r"[.\[]", path)[0], -1))


def _homes(name: str, tree: Any) -> list[str]:
    known = _ELSEWHERE.get(name.lower(), name)
    found = [path for path in _settable(Experiment, tree) if path.rpartition(".")[2] == known]
    return by_likelihood(found)[:_MOST]


def _similar(name: str, tree: Any) -> str:
    """Return the path whose last name is nearest, anywhere in the experiment."""
    paths = {path.rpartition(".")[2]: path for path in reversed(by_likelihood(_settable(Experiment, tree)))}
    near = nearest(name, paths, cutoff=_ALIKE)
    return f"; did you mean {paths[near[0]]}?" if near else ""


def _settable(section: type[Section], values: Any, prefix: str = "") -> Iterator[str]:
    """Yield the path of every key of an experiment with these values, without names that its file chooses."""
    given: Mapping[str, Any] = values if isinstance(values, Mapping) else {}
    for name, field in section.model_fields.items():
        yield f"{prefix}{name}"
        below, kind = given.get(name), field_kind(field)
        if (
            member := _member(kind, below, field.get_default(call_default_factory=True, validated_data={}))
        ) is not None:
            yield from _settable(member, below, f"{prefix}{name}.")


def _member(kind: Kind, value: Any, default: Any) -> type[Section] | None:
    """Return the section that a value is of: of a union with a tag the one that is chosen, or the default."""
    if kind.tag is None:
        return kind.section
    tag = value.get(kind.tag) if isinstance(value, Mapping) else None
    return kind.tagged_member(str(tag if tag is not None else getattr(default, kind.tag, "")))


def _in_another_member(name: str) -> str | None:
    """Return `train.optimizer={name: sgd, momentum: ..}` for a key that only members not chosen have."""
    for key in by_likelihood(key.path for key in keys_of(Experiment)):
        found = re.fullmatch(r"([\w.]+)\[(\w+)\]\.([\w.]+)", key)
        if found and found[3].rpartition(".")[2] == name:
            *outer, last = found[3].split(".")
            inner = "".join(f"{part}: {{" for part in outer) + f"{last}: .." + "}" * len(outer)
            return f"{found[1]}={{{_tag_of(found[1])}: {found[2]}, {inner}}}"
    return None


def _tag_of(union: str) -> str:
    return next(str(key.kind.tag) for key in keys_of(Experiment) if key.path == union)
