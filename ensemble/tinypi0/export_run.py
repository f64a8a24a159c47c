"""Policies in the folders of tiny pi0's authors, so that their own scripts evaluate them.

    OUT/trained_models/tinypi0_YYYYMMDD_HHMM.pth    the state dict of a member's best weights
    OUT/trained_models/fast_tokenizer.json          of tiny pi0-FAST: the tokenizer in their format
    OUT/logs/tinypi0_YYYYMMDD_HHMM.txt              their log lines, from the member's curve
    OUT/loss_pics/tinypi0_YYYYMMDD_HHMM.png         its losses

A name is the minute in which a member's training began, with the seed appended where several began in the same minute.
Their code has no configuration, so settings with which the weights would act differently there are refused. The
distribution of the training's time steps is not among them: the log reports it with the losses.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from ensemble.config import flatten
from ensemble.errors import UsageError
from ensemble.lock import held
from ensemble.models.state_dicts import to_state_dict
from ensemble.reporting.figures.style import PALETTE, STYLE, Series, new_figure, save
from ensemble.run_directory import MemberDirectory
from ensemble.schema import LEARNING_RATE, TEST_LOSS, TRAIN_LOSS, VALIDATION_LOSS, role_columns
from ensemble.store import read_table, write_text
from ensemble.tinypi0.weight_files import write_state_dict
from ensemble.tokenizers.original import write_original
from ensemble.tokenizers.tokenizer import ActionTokenizer
from ensemble.training.load import find_members, load_pack
from ensemble.training.weights import load_model_record, read_features

PREFIX = {"pi0": "tinypi0", "pi0_fast": "tinypi0fast"}
# Settings that are constants of the authors' code and determine how a model acts.
FIXED: Mapping[str, Any] = {
    "attention": "causal",
    "time_embedding": "raw",
    "noise_clip": 3.0,
    "solver": "euler",
    "solver_steps": 10,
    "normalize": False,
    "temperature": 0.0,
    "tokenizer.kind": "tiny",
    "tokenizer.scale": 10.0,
}
# Constants of their training alone: with other ones the weights act equally there, but losses are not comparable.
_DRAWN: Mapping[str, Any] = {"time_law": "uniform", "time_per": "position"}
_LOSS = {"pi0": "Flow Matching MSE Loss", "pi0_fast": "Cross Entropy Loss"}
_CLASS = {"pi0": "TransformerPi0", "pi0_fast": "TransformerPi0FAST"}
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)  (.*)")
_NAMED = re.compile(r"tinypi0(?:fast)?_(\d{8}_\d{4})(?:_.*)?\.pth")
_STEP = re.compile(r"step +(\d+)")
_TIME, _NAME_TIME = "%Y-%m-%d %H:%M:%S", "%Y%m%d_%H%M"

LogTimes = Mapping[tuple[int, str], datetime]  # (step, "validation" or "test"): time of its log line


@dataclass(frozen=True)
class _Member:
    """A member's files and records, without its weights."""

    seed: int
    directory: MemberDirectory
    record: Mapping[str, Any]  # model.json
    row: Mapping[str, Any]  # its row of members.parquet; empty where it is missing
    curve: Mapping[str, Mapping[int, float]]  # metric: step: value
    began: datetime
    log_times: LogTimes


def export_tiny(path: Path, out: Path, config_hash: str | None = None, overwrite: bool = False) -> list[Path]:
    """Write the completed members of one configuration under `out`, and return the files.

    Args:
        path: a run directory, or one member's.
        out: the folder of the three folders.
        config_hash: the configuration; by default the best (see `load_policy`).
        overwrite: replace existing files.

    Raises:
        UsageError: no policy, a configuration that the authors' code cannot represent (with every such key), or
            existing files.
        StorageError: no completed member.
    """
    # Members and their names
    directories = find_members(path, config_hash)
    check_exportable(load_model_record(next(iter(directories.values()))))
    members = [_member(seed, directory) for seed, directory in directories.items()]
    names = _names(members)
    tokenizer = _tokenizer(members)

    # All files are checked before the first is written
    files = [file for member, name in zip(members, names, strict=True) for file in _files(out, member, name).values()]
    files += [out / "trained_models" / "fast_tokenizer.json"] if tokenizer else []

    # Weights, logs and pictures
    with held(out / ".export.lock", str(out)):
        existing = [file for file in files if file.exists()]
        if existing and not overwrite:
            raise UsageError(f"{existing[0]} exists; choose another --out, or replace files with --overwrite")
        module = load_pack(tuple(directories.values()))
        for index, (member, name) in enumerate(zip(members, names, strict=True)):
            paths = _files(out, member, name)
            write_state_dict(paths["pth"], to_state_dict(module, index))
            if "txt" in paths:
                write_text(paths["txt"], "".join(f"{line}\n" for line in log_lines(member)))
                _draw(member, paths["png"])
        if tokenizer:
            write_original(tokenizer, files[-1])
    return files


def check_exportable(record: Mapping[str, Any]) -> None:
    """Raise UsageError, with every key, unless the authors' code can represent the model of a model.json."""
    family = record["model"]["family"]
    if family not in PREFIX:
        raise UsageError(f"model.family {family}: --layout tinypi0 is of the policies {', '.join(sorted(PREFIX))}")
    settings = flatten(record["model"])
    wrong = [f"model.{k} is {settings[k]}, theirs {v}" for k, v in FIXED.items() if k in settings and settings[k] != v]
    angles = [f.name for f in read_features(record) if f.role == "state" and any(f.angles)]
    wrong += [f"data.angles: {', '.join(angles)} wraps, and theirs does not"] if angles else []
    if wrong:
        raise UsageError(f"tiny pi0's code cannot hold this {family}:\n" + "\n".join(f"  {line}" for line in wrong))


def _member(seed: int, path: Path) -> _Member:
    directory = MemberDirectory(path)
    row = read_table(directory.row_file).to_pylist()[0] if directory.row_file.is_file() else {}
    curve: dict[str, dict[int, float]] = {}
    if directory.curves_file.is_file():
        for point in read_table(directory.curves_file).to_pylist():
            curve.setdefault(point["metric"], {})[point["step"]] = point["value"]
    log = directory.log_file.read_text(encoding="utf-8") if directory.log_file.is_file() else ""
    began, log_times = _times(log)
    # An imported member has no log: its file's name has the time, else the time of its weights must do.
    written = datetime.fromtimestamp(directory.weights.stat().st_mtime)
    began = began or _named_time(row) or written
    return _Member(seed, directory, load_model_record(path), row, curve, began, log_times)


def _times(log: str) -> tuple[datetime | None, LogTimes]:
    """Return the time of a log's first line, and of the last validation and test of each step."""
    log_times: dict[tuple[int, str], datetime] = {}
    began = None
    for line in log.splitlines():
        if stamped := _STAMP.match(line):
            time = datetime.strptime(stamped[1], _TIME)
            began = began or time
            if step := _STEP.search(stamped[2]):
                log_times[int(step[1]), "test" if TEST_LOSS in line else "validation"] = time
    return began, log_times


def _named_time(row: Mapping[str, Any]) -> datetime | None:
    """Return the time in the name of an imported member's file, or None."""
    named = _NAMED.fullmatch(row.get("imported_from") or "")
    return datetime.strptime(named[1], _NAME_TIME) if named else None


def _names(members: Sequence[_Member]) -> list[str]:
    """Return distinct names of the members' files, without folder and suffix."""
    names = [f"{PREFIX[m.record['model']['family']]}_{m.began.strftime(_NAME_TIME)}" for m in members]
    count = Counter(names)
    return [f"{name}_s{m.seed}" if count[name] > 1 else name for name, m in zip(names, members, strict=True)]


def _files(out: Path, member: _Member, name: str) -> dict[str, Path]:
    """Return the paths of a member's files by suffix; without a curve (imported weights), of the weights alone."""
    folders = {"pth": "trained_models", "txt": "logs", "png": "loss_pics"}
    suffixes = folders if member.curve.get(VALIDATION_LOSS) else ("pth",)
    return {suffix: out / folders[suffix] / f"{name}.{suffix}" for suffix in suffixes}


def _tokenizer(members: Sequence[_Member]) -> ActionTokenizer | None:
    """Return the common tokenizer of FAST members, None for others; UsageError where members differ in it."""
    if members[0].record["model"]["family"] != "pi0_fast":
        return None
    # The authors' folder has room for one tokenizer.
    tokenizers = [ActionTokenizer.load(member.directory.tokenizer_file) for member in members]
    if len({each.fingerprint for each in tokenizers}) > 1:
        raise UsageError("the members have different tokenizers; export them one by one, as DIR/members/<id>")
    return tokenizers[0]


def log_lines(member: _Member) -> list[str]:
    """Return a member's log in the authors' format; an epoch there is an interval between two validations here."""
    # Head
    row, steps = member.row, sorted(member.curve[VALIDATION_LOSS])
    planned = _planned(row, steps)
    now = member.began
    model = member.record["model"]
    drawn = "".join(f", {k} {model[k]} (theirs {v})" for k, v in _DRAWN.items() if k in model and model[k] != v)
    epoch = f"{steps[0]} steps, up to a validation{drawn}"
    lines = [
        _line(now, f"Using device: {row.get('device') or 'unknown'}"),
        _line(now, f"Hyperparameters: {_hyperparameters(member, planned)}"),
        _line(now, f"Model initialized: {_CLASS[model['family']]}"),
        _line(now, f"Exported by ensemble, seed {member.seed}: an epoch is {epoch}"),
    ]

    # One line per epoch
    for number, step in enumerate(steps, 1):
        now = member.log_times.get((step, "validation"), now)
        train, validation, rate = (
            member.curve.get(metric, {}).get(step, float("nan"))
            for metric in (TRAIN_LOSS, VALIDATION_LOSS, LEARNING_RATE)
        )
        losses = f"Train loss: {train:.6f} | Val loss: {validation:.6f} | LR: {rate:.6g}"
        lines.append(_line(now, f"[Epoch {number}/{planned}] {losses}"))

    # End
    if row.get(TEST_LOSS) is not None:
        now = member.log_times.get((steps[-1], "test"), now)
        lines.append(_line(now, f"Final Test Loss: {row[TEST_LOSS]:.6f}"))
    if row.get("seconds") is not None:
        lines.append(_line(now, f"Training finished. Total time: {timedelta(seconds=round(row['seconds'], 6))}"))
    return lines


def _line(time: datetime, text: str) -> str:
    return f"[Info] {time.strftime(_TIME)} {text}"


def _planned(row: Mapping[str, Any], steps: Sequence[int]) -> int:
    """Return the number of validations of a complete training, which an early-stopped member does not reach."""
    if not row.get("train.steps"):
        return len(steps)
    return max(len(steps), -(-int(row["train.steps"]) // steps[0]))


def _hyperparameters(member: _Member, planned: int) -> str:
    model, row = member.record["model"], member.row
    features = read_features(member.record)
    sizes = {"state_dim": len(role_columns(features, "state"))}
    if model["family"] == "pi0":
        sizes |= {"action_dim": len(role_columns(features, "control")), "chunk_len": model["chunk"]}
    else:
        sizes |= {"vocab_size": model["tokenizer"]["vocabulary"], "max_seq_len": model["tokenizer"]["max_length"]}
    layers = {"num_layers": "n_layer", "num_heads": "n_head", "ff_dim": "n_inner"}
    sizes |= {"embed_dim": model["n_embd"], **{theirs: model[ours] for theirs, ours in layers.items()}}
    training = {"num_epochs": planned, "batch_size": row.get("train.batch_size"), "lr": row.get("train.optimizer.lr")}
    return ", ".join(f"{name}={value}" for name, value in {**sizes, **training}.items())


def _draw(member: _Member, file: Path) -> None:
    epochs = {step: number for number, step in enumerate(sorted(member.curve[VALIDATION_LOSS]), 1)}

    def series(metric: str) -> Series:
        points = {epochs[step]: value for step, value in member.curve.get(metric, {}).items() if step in epochs}
        return Series(np.array(sorted(points), np.float64), np.array([points[x] for x in sorted(points)], np.float64))

    label = _LOSS[member.record["model"]["family"]]
    draw_losses(series(TRAIN_LOSS), series(VALIDATION_LOSS), member.row.get(TEST_LOSS), label, file)


def draw_losses(train: Series, validation: Series, test: float | None, label: str, file: Path) -> None:
    """Write the loss curves of one member as a PNG; `label` is the name of the loss, `test` None draws no test line."""
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.0)
        axes = figure.add_subplot()
        axes.plot(train.x, train.y, color=PALETTE[0], label="Train Loss")
        axes.plot(validation.x, validation.y, color=PALETTE[1], label="Val Loss")
        if test is not None:
            axes.axhline(test, color="red", linestyle=":", label=f"Test Loss ({test:.4f})")
        axes.set(title="Loss Curve", xlabel="Epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    save(figure, file)
