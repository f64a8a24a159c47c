"""All keys of an experiment file, for editors (JSON schema) and for readers (text).

Both are derived from the section classes. The JSON schema is committed as `search_spaces/schema.json`; with the first
line `# yaml-language-server: $schema=schema.json` an editor completes and checks a file of that folder.
"""

import json
from typing import Any

from ensemble.config.base import Section
from ensemble.config.experiment import Experiment
from ensemble.config.fields import describe, has_default, keys_of
from ensemble.config.forks import SEARCHED

_REF = "#/$defs/"


def json_schema() -> dict[str, Any]:
    """Return the JSON schema; every key of `model` and `train`, and the sections themselves, may be a distribution."""
    schema = Experiment.model_json_schema()
    # The experiment's name has a default that pydantic does not know: the file's.
    schema["required"] = ["data"]
    schema["description"] = "An experiment file of the Python package ensemble."

    # Distributions
    searched = _reachable(schema, [schema["properties"][name] for name in SEARCHED])
    for name in sorted(searched):
        properties = schema["$defs"][name].get("properties", {})
        for key, value in properties.items():
            properties[key] = _or_distribution(value)
    for name in SEARCHED:
        schema["properties"][name] = _or_distribution(schema["properties"][name])
    result: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_without_tags(schema)}
    return result


def render_json_schema() -> str:
    """Return the text of `search_spaces/schema.json`."""
    return json.dumps(json_schema(), indent=1) + "\n"


def render_schema_text() -> str:
    """Return every key of every section with type, default and meaning, as plain text."""
    lines = ["Keys of an experiment file. Keys of model and train, and whole parts of them, may be distributions:", ""]
    lines += [f"  {form:<36}{meaning}" for form, meaning in _DISTRIBUTIONS]
    for key in keys_of(Experiment):
        depth = key.path.count(".")
        if not depth:
            lines.append("")
        values = describe(key.kind) if key.kind.tag is None else "one of " + ", ".join(key.kind.tagged())
        if key.kind.section is not None:
            lines.append(f"{key.path}: {key.meaning}")
            continue
        default = (
            f"default {_plain(key.default)}"
            if has_default(key)
            else "optional"
            if key.path == "experiment"
            else "required"
        )
        lines.append(f"  {key.path} ({default})")
        lines.append(f"      {values}: {key.meaning}")
    return "\n".join(lines) + "\n"


_DISTRIBUTIONS = (
    ("{choice: [a, b, ..]}", "one of these; an option may hold further distributions"),
    ("{uniform: [low, high]}", "a number"),
    ("{log_uniform: [low, high]}", "a number, its logarithm uniform"),
    ("{int: [low, high], step: s}", "a whole number; step is 1 where it is left out"),
    ("{int_log: [low, high]}", "a whole number, its logarithm uniform"),
)


def _plain(value: Any) -> str:
    if isinstance(value, Section):
        shown = value.model_dump(mode="json", exclude_defaults=True)
        tag = next((getattr(value, name) for name in ("name", "family") if hasattr(value, name)), None)
        return str(tag) if tag else json.dumps(shown)
    return json.dumps(value)


def _reachable(schema: dict[str, Any], start: list[Any]) -> set[str]:
    """Return the names of all definitions that `start` refers to, directly or not."""
    names: set[str] = set()
    todo = list(start)
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            reference = str(part.get("$ref", "")).removeprefix(_REF)
            if reference and reference not in names:
                names.add(reference)
                todo.append(schema["$defs"][reference])
            todo += part.values()
        elif isinstance(part, list):
            todo += part
    return names


def _or_distribution(value: dict[str, Any]) -> dict[str, Any]:
    """Return a value's schema that also accepts distributions over such values."""
    notes: dict[str, Any] = {k: part for k, part in value.items() if k in ("title", "description", "default")}
    bare = {key: part for key, part in value.items() if key not in notes}
    forms = [bare, _form("choice", {"type": "array", "minItems": 1, "items": bare})]
    # The type may be nested in an `anyOf`, as of `int | null`: its text is searched.
    text = json.dumps(bare)
    pair = {"type": "array", "minItems": 2, "maxItems": 2}
    if '"type": "number"' in text or '"type": "integer"' in text:
        whole, number = ({**pair, "items": {"type": kind}} for kind in ("integer", "number"))
        forms += [_form("int", whole, step={"type": "integer", "minimum": 1}), _form("int_log", whole)]
        if '"type": "number"' in text:
            forms += [_form("uniform", number), _form("log_uniform", number)]
    return {**notes, "anyOf": forms}


def _form(name: str, content: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: content, **more},
        "required": [name],
        "additionalProperties": False,
    }


def _without_tags(part: Any) -> Any:
    """Return the schema with plain unions in place of tagged ones, since a file may leave out the default's tag."""
    if isinstance(part, dict):
        return {
            ("anyOf" if key == "oneOf" else key): _without_tags(value)
            for key, value in part.items()
            if not (key == "discriminator" and isinstance(value, dict) and "propertyName" in value)
        }
    if isinstance(part, list):
        return [_without_tags(value) for value in part]
    return part
