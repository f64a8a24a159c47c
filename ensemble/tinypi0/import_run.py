"""A run directory of policies from other code: the authors' tiny pi0 and tiny pi0-FAST.

Files are read, checked and built before anything is written; the run is then written under another name and renamed.
The experiment is the published recipe with the shapes of the files, so that `evaluate`, `load_policy`, `report` and
`train.init_from` find a finished seed ensemble; its rows name the file of each member.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from torch import Tensor

from ensemble.config import Experiment, load, shipped
from ensemble.config.policy import Pi0FastConfig
from ensemble.data.layouts.recording import raw_feature
from ensemble.errors import DataError, UsageError
from ensemble.lock import sole_driver
from ensemble.models.base import Normalization, build
from ensemble.models.state_dicts import load_state_dict
from ensemble.run_directory import MemberDirectory, RunDirectory, member_id
from ensemble.schema import TEST_ACTION, TEST_LOSS, VALIDATION_ACTION, VALIDATION_LOSS, Feature
from ensemble.store import sha256_file, write_record, write_table, write_text
from ensemble.study.plan import Plan, clear, make_plan, refuse_foreign, write_planned
from ensemble.tinypi0.weight_files import Family, model_of, read_state_dict, widths
from ensemble.tokenizers.original import read_original
from ensemble.tokenizers.tokenizer import ActionTokenizer
from ensemble.training.arena import Arena, Slot
from ensemble.training.members import Member
from ensemble.training.rows import member_row, row_table
from ensemble.training.weights import save_model, save_row, weights_sha256
from ensemble.versions import git_commit, versions

STATES, ACTIONS = 4, 1  # widths of the inverted pendulum, the originals' environment
# The published recipe: a shipped file, and the published settings that it improves on.
_RECIPES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "pi0": ("pi0_ensemble.yaml", {"model.draw": "frozen"}),
    "pi0_fast": ("pi0_fast_ensemble.yaml", {"model.logits_dropout": 0.1}),
}
# Columns that are null: facts of the training, and metrics that were not measured.
_UNKNOWN = ("steps", "samples", "best_step", "seconds", "samples_per_second", "threads")
_UNMEASURED = (VALIDATION_LOSS, VALIDATION_ACTION, TEST_LOSS, TEST_ACTION)
_NOTICE = "imported weights: `data` and `train` are the published recipe, not read from the files; nothing was measured"


@dataclass(frozen=True)
class Request:
    """The files to import, and settings that they do not contain."""

    files: Sequence[Path]
    family: Family
    name: str  # of the experiment
    results: Path
    tokenizer: Path | None = None  # the authors' JSON, of pi0_fast
    heads: int = 4
    chunk: int = 50  # actions, of pi0_fast
    scale: float = 10.0  # of its tokenizer
    overwrite: bool = False


@dataclass(frozen=True)
class _ImportedWeights:
    """One file, as a member."""

    path: Path
    sha256: str
    row: Tensor  # (P,)


def import_policies(request: Request) -> Path:
    """Make a run directory of the weights in `request.files`, one member a file, and return it.

    The seed of a member is the index of its file. Raises UsageError and DataError, with all problems of the files,
    before anything is written.
    """
    # Read, check and build
    _check_request(request)
    tensors = _read(request)
    plan = _plan(request, tensors)
    experiment = plan.file.first
    tokenizer = _tokenizer(request, experiment)
    origins, layout = _build(experiment, tensors)

    # Write under another name, then replace the run directory
    refuse_foreign(plan, request.overwrite)
    with sole_driver(plan.run):
        if RunDirectory(plan.run).is_run and not request.overwrite:
            raise UsageError(f"{plan.run} exists; choose another --name, or replace it with --overwrite")
        # In the same folder, since a rename is atomic only within a file system.
        place = plan.run.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{place.name}.importing-", dir=place.parent) as folder:
            staging = Path(folder) / place.name
            _write(RunDirectory(staging), plan, origins, layout, tokenizer)
            staging.rename(clear(plan))
    return plan.run


def features() -> tuple[Feature, ...]:
    """Return the originals' inputs and outputs, with the names of simulated pendulums and imported pairs."""
    state = raw_feature("observations", STATES, "float32", "state")
    return state.feature, raw_feature("actions", ACTIONS, "float32", "control").feature


def _check_request(request: Request) -> None:
    if request.family == "pi0_fast" and request.tokenizer is None:
        raise UsageError("--tokenizer: pi0_fast predicts tokens; give the fast_tokenizer.json of its training")
    if request.family == "pi0" and request.tokenizer is not None:
        raise UsageError("--tokenizer: pi0 has none; leave it out, or say --family pi0_fast")


def _read(request: Request) -> dict[Path, dict[str, Tensor]]:
    """Read every file; DataError with all that are unreadable, repeated, or have other shapes than the first."""
    state_dicts: dict[Path, dict[str, Tensor]] = {}
    models: dict[Path, dict[str, Any]] = {}
    problems = []
    for path in request.files:
        try:
            tensors = read_state_dict(path)
            models[path] = model_of(request.family, tensors, path)
            _check_widths(request, tensors, path)
            _check_equal(models, path)
        except DataError as error:
            problems.append(str(error))
        else:
            if path in state_dicts:
                problems.append(f"{path}: given twice")
            state_dicts[path] = tensors
    if problems:
        raise DataError("\n".join(problems))
    return state_dicts


def _check_widths(request: Request, tensors: Mapping[str, Tensor], path: Path) -> None:
    states, actions = widths(request.family, tensors)
    if (states, actions or ACTIONS) != (STATES, ACTIONS):
        raise DataError(
            f"{path}: {states} state entries and {actions or ACTIONS} action(s); the inverted pendulum has {STATES} "
            f"and {ACTIONS}"
        )


def _check_equal(models: Mapping[Path, Mapping[str, Any]], path: Path) -> None:
    """Raise DataError unless a file has the architecture of the first."""
    first, model = next(iter(models.items()))
    for name, value in models[path].items():
        if model[name] != value:
            raise DataError(f"{path}: {name} {value}, but {first} has {model[name]}; import them separately")


def _plan(request: Request, tensors: Mapping[Path, Mapping[str, Tensor]]) -> Plan:
    path, first = next(iter(tensors.items()))
    space, original = _RECIPES[request.family]
    model = {**model_of(request.family, first, path), "n_head": request.heads}
    if request.family == "pi0_fast":
        model |= {"chunk": request.chunk, "tokenizer.scale": request.scale}
    keys = {"experiment": json.dumps(request.name), "ensemble.seeds": len(tensors), **original}
    keys |= {f"model.{name}": value for name, value in model.items()}
    return make_plan(load(shipped() / space, [f"{name}={value}" for name, value in keys.items()]), request.results)


def _tokenizer(request: Request, experiment: Experiment) -> ActionTokenizer | None:
    """Read the authors' tokenizer; DataError where it has more tokens than the model."""
    model = experiment.model
    if request.tokenizer is None or not isinstance(model, Pi0FastConfig):
        return None
    settings = model.tokenizer
    tokenizer = read_original(
        request.tokenizer, scale=settings.scale, horizon=model.chunk, width=ACTIONS, max_length=settings.max_length
    )
    if tokenizer.vocabulary > settings.vocabulary:
        raise DataError(
            f"{request.tokenizer}: ids up to {tokenizer.vocabulary - 1}, but the weights know {settings.vocabulary} "
            "tokens: it is another model's"
        )
    return tokenizer


def _build(
    experiment: Experiment, tensors: Mapping[Path, Mapping[str, Tensor]]
) -> tuple[list[_ImportedWeights], tuple[Slot, ...]]:
    """Load every file into our network; DataError with all names and shapes that do not fit, and for equal weights."""
    module = build(experiment.model, features(), 1, Normalization.identity(features()))
    arena = Arena(module)
    origins: list[_ImportedWeights] = []
    problems = []
    for path, weights in tensors.items():
        try:
            load_state_dict(module, 0, weights)
        except UsageError as error:
            problems += [f"{path}: {line}" for line in str(error).splitlines()]
            continue
        row = arena.values[0].detach().clone()
        # By value and not by checksum: two saves of one model differ in the names inside the archive.
        duplicate = next((each.path for each in origins if bool((each.row == row).all())), None)
        if duplicate is not None:
            problems.append(f"{path}: the same weights as {duplicate}; they would count as two seeds")
        origins.append(_ImportedWeights(path, sha256_file(path), row))
    if problems:
        raise DataError("\n".join(problems))
    return origins, arena.layout


def _write(
    run: RunDirectory,
    plan: Plan,
    origins: Sequence[_ImportedWeights],
    layout: tuple[Slot, ...],
    tokenizer: ActionTokenizer | None,
) -> None:
    """Write a complete run directory."""
    # The experiment
    run.mark()
    title = f"# Question: how good are the {len(origins)} imported policies?\n# Weights: "
    names = ", ".join(origin.path.name for origin in origins)
    body = yaml.safe_dump(plan.resolved, sort_keys=False, allow_unicode=True, width=120)
    write_text(run.experiment_file, f"{title}{names}\n# {_NOTICE[0].upper()}{_NOTICE[1:]}.\n{body}")

    # Members
    for (identity, _, seed), origin in zip(plan.known, origins, strict=True):
        directory = run.member(member_id(identity, seed))
        _write_member(directory, plan.file.first, (identity, seed), origin, layout)
        if tokenizer is not None:
            tokenizer.save(directory.tokenizer_file)

    # Tables and notes
    write_planned(run.path, plan.known)
    note = {"versions": {**versions(), "git_commit": git_commit()}, "beside": str(Path.cwd())}
    write_record(run.notes_file, {"notices": [_NOTICE], **note})
    run.collect()


def _write_member(
    directory: MemberDirectory,
    experiment: Experiment,
    identity: tuple[str, int],
    origin: _ImportedWeights,
    layout: tuple[Slot, ...],
) -> None:
    config_hash, seed = identity
    facts = {
        "parameters": sum(slot.size for slot in layout),
        "device": "",
        "weights_sha256": weights_sha256(origin.row),
        "data_fingerprint": "",
        "imported_from": origin.path.name,
        "imported_sha256": origin.sha256,
    }
    row = member_row(experiment, config_hash, "ensemble", Member(seed), "completed", facts, {})
    row |= dict.fromkeys((*_UNKNOWN, *_UNMEASURED))
    save_row(directory.weights, origin.row, layout)
    kept = {name: row[name] for name in ("experiment", "config_hash", "seed", "weights_sha256", "data_fingerprint")}
    save_model(directory, experiment, features(), Normalization.identity(features()), layout, kept)
    write_table(directory.row_file, row_table(row))
