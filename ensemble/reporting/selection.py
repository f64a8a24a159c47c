"""Which configuration of a run is meant: by its hash, its trial, its settings, or as the best; and the list of all."""

from collections.abc import Mapping, Sequence
from math import isclose
from typing import Any

from ensemble.errors import UsageError
from ensemble.reporting.groups import Group, rank_run
from ensemble.reporting.number_format import setting
from ensemble.reporting.results import label_groups, result_table, searched_keys
from ensemble.reporting.run import Run
from ensemble.reporting.search_report import report_search
from ensemble.reporting.table import spread_text
from ensemble.text import did_you_mean, nearest, plural

BEST = "best"
_SAME = 1e-3  # relative: labels show four digits
_SHOWN = 5  # configurations or values in a message


def find_configuration(run: Run, text: str) -> str:
    """Return the config_hash that `text` means: its beginning, `#12` for a trial, `best`, or settings as `lr=4e-3`.

    UsageError with the nearest ones where it is not one configuration.
    """
    if text == BEST:
        return _best(run)
    if "=" in text:
        return _by_settings(run, text)
    hashes = sorted({str(member["config_hash"]) for member in run.members})
    if run.search is not None:
        hashes = sorted({*hashes, *(trial.config_hash for trial in run.search.trials)})
    if text.startswith("#"):
        return _by_number(run, text)
    matching = [each for each in hashes if each.startswith(text)] if text else []
    if len(matching) == 1:
        return matching[0]
    if matching:
        shown = ", ".join(matching[:5]) + (", .." if len(matching) > 5 else "")
        raise UsageError(f"{text} is the beginning of {len(matching)} configurations: {shown}")
    # A beginning is compared with beginnings: whole hashes are too long to be near it.
    near = nearest(text, [*hashes, *(each[: len(text)] for each in hashes)], most=3, cutoff=0.4)
    full = dict.fromkeys(each for n in near for each in hashes if each.startswith(n))
    raise UsageError(f"{run.path} has no configuration '{text}'; {_suggestion([*full][:3], hashes)}")


def _by_number(run: Run, text: str) -> str:
    trials = {} if run.search is None else {trial.number: trial.config_hash for trial in run.search.trials}
    digits = text[1:]
    if digits.isdecimal() and int(digits) in trials:
        return trials[int(digits)]
    if not trials:
        raise UsageError(f"{run.path} is no search: it has no trial {text}; name a configuration by its hash")
    raise UsageError(f"{run.path} has no trial {text}; it has #{min(trials)} to #{max(trials)}")


def _suggestion(near: Sequence[str], hashes: Sequence[str]) -> str:
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return f"there are {', '.join(hashes[:5])}{', ..' if len(hashes) > 5 else ''}"


def list_configurations(run: Run) -> str:
    """Return every configuration of a run, best first: hash, mean of the metric, seeds that count, and settings."""
    metric = run.check_metric(None)
    ranked = rank_run(run, metric)
    labels = label_groups(run, ranked, searched_keys(run))
    lines: list[str] = []
    for role in dict.fromkeys(group.role for group in ranked):
        shown = run.search.metric if run.search is not None and role == "search" else metric
        lines.append(f"{role}, by {shown}")
        lines += [
            f"  {group.config_hash}  {_value(group, shown):<28}  {labels[group.config_hash]}".rstrip()
            for group in ranked
            if group.role == role
        ]
    return "".join(f"{line}\n" for line in lines)


def _value(group: Group, metric: str) -> str:
    found = group.describe(metric)
    return f"{spread_text(found)}, {plural(found.n, 'seed')}" if found.n else group.status(metric)


def _best(run: Run) -> str:
    """Return the configuration that the report calls the best; UsageError where nothing has a value."""
    metric = run.check_metric(None)
    if run.search is not None:
        best = report_search(run, run.search, result_table(run, metric), metric).best
        if best is not None:
            return best
    group = next((group for group in rank_run(run, metric) if group.describe(metric).n), None)
    if group is None:
        raise UsageError(f"{run.path} has no best configuration: none has a value of {metric}")
    return group.config_hash


def _by_settings(run: Run, text: str) -> str:
    """Return the configuration with all of the settings `lr=4e-3,n_embd=32`; names may be short."""
    known = _settings(run)
    wanted = [_setting(part, known) for part in text.split(",")]
    found = [each for each, values in known.items() if all(_has(values, paths, value) for paths, value in wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        labels = [run.search.mark(each) if run.search else each for each in found[:_SHOWN]]
        more = ", .." if len(found) > _SHOWN else ""
        raise UsageError(f"{text} are {len(found)} configurations: {', '.join(labels)}{more}; add another setting")
    there = "; ".join(f"{paths[0]} is {_values_there(known, paths)}" for paths, _ in wanted)
    raise UsageError(f"{run.path} has no configuration with {text}; {there}")


def _settings(run: Run) -> dict[str, dict[str, Any]]:
    """Return {config_hash: {dotted path: value}}: of trials what was suggested, of members every hyperparameter."""
    trials = run.search.trials if run.search is not None else ()
    found: dict[str, dict[str, Any]] = {trial.config_hash: dict(trial.settings) for trial in trials}
    for member in run.members:
        values = {name: member[name] for name in run.hyperparameters if member.get(name) is not None}
        found.setdefault(str(member["config_hash"]), {}).update(values)
    return found


def _setting(part: str, known: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], str]:
    """Return the paths that a name may mean, and the value; UsageError with the nearest name."""
    name, _, value = (each.strip() for each in part.partition("="))
    paths = list(dict.fromkeys(path for values in known.values() for path in values))
    meant = [path for path in paths if name in _names(path)]
    if not meant or not value:
        hint = did_you_mean(name, [each for path in paths for each in _names(path)]) or "; as in lr=4e-3"
        raise UsageError(f"{part}: no setting {name!r}{hint}" if value else f"{part}: needs NAME=VALUE")
    # A name of several sections means what was searched, if that is one of them.
    differing = [path for path in meant if len({repr(values.get(path)) for values in known.values()}) > 1]
    return differing or meant, value


def _names(path: str) -> set[str]:
    """Return what a dotted path may be called: every end of it, an option of a choice by the key above its name."""
    parts = path.split(".")
    short = parts[:-1] if parts[-1] in ("name", "family") else parts
    return {".".join(each[start:]) for each in (parts, short) for start in range(len(each))}


def _has(values: Mapping[str, Any], paths: Sequence[str], wanted: str) -> bool:
    return any(_is(values[path], wanted) for path in paths if path in values)


def _is(value: object, wanted: str) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return isclose(value, float(wanted), rel_tol=_SAME)
        except ValueError:
            return False
    return wanted in (setting(value), str(value))


def _values_there(known: Mapping[str, Mapping[str, Any]], paths: Sequence[str]) -> str:
    values = dict.fromkeys(setting(each[path]) for each in known.values() for path in paths if path in each)
    return ", ".join([*values][:_SHOWN]) + (", .." if len(values) > _SHOWN else "")
