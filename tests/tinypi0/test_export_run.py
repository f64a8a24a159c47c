"""Policies that were trained here, in the folders of tiny pi0's authors."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pendulum import experiment, trajectories

from ensemble.config import Experiment
from ensemble.data.trajectories import Trajectories
from ensemble.errors import StorageError, UsageError
from ensemble.models.state_dicts import to_state_dict
from ensemble.run_directory import RunDirectory
from ensemble.store import read_record, write_record
from ensemble.tinypi0.export_run import export_tiny
from ensemble.tokenizers.original import read_original
from ensemble.training.context import InlineContext
from ensemble.training.load import find_members, load_pack
from ensemble.training.setup import TrialData
from ensemble.training.trial import Trial, run_trial

STAMP = r"\[Info\] \d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
SIZES = {"chunk": 10, "n_layer": 1, "n_head": 2, "n_embd": 8, "n_inner": 8}
PI0 = {"family": "pi0", **SIZES}
FAST = {"family": "pi0_fast", **SIZES, "tokenizer": {"vocabulary": 256, "max_length": 12}}


def swing(angles: bool = False) -> Trajectories:
    data = trajectories()
    plain = tuple(replace(feature, angles=(False,)) for feature in data.features)
    return data if angles else replace(data, features=plain)


def policy(model: Mapping[str, Any]) -> Experiment:
    whole = experiment().model_dump(mode="json")
    for name in ("model", "search"):
        del whole[name]
    return Experiment.model_validate({**whole, "model": model}, strict=False)


def train(run: Path, model: Mapping[str, Any], data: Trajectories | None = None) -> Path:
    """Train seeds 0 and 1 for 12 steps, a validation each 4, into a run directory."""
    run_trial(Trial(policy(model), (0, 1), "ensemble", run), TrialData(data or swing(), {}), InlineContext())
    RunDirectory(run).collect()
    return run


def began(run: Path, *times: str) -> None:
    """Let the logs of the members begin at these times."""
    for member, time in zip(sorted(run.glob("members/*")), times, strict=True):
        log = (member / "train.log").read_text()
        (member / "train.log").write_text(time + log[len(time) :])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "pi0", PI0)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_the_three_folders_hold_weights_log_and_picture_by_the_minute_of_the_beginning(run: Path) -> None:
    began(run, "2025-06-19 23:55:31", "2025-06-20 00:47:02")
    out = run.parent / "out"
    export_tiny(run, out)
    names = ["tinypi0_20250619_2355", "tinypi0_20250620_0047"]
    for folder, suffix in (("logs", "txt"), ("trained_models", "pth"), ("loss_pics", "png")):
        assert sorted(path.name for path in (out / folder).iterdir()) == [f"{name}.{suffix}" for name in names]
    module = load_pack(tuple(find_members(run).values()))
    for member, name in enumerate(names):
        theirs = torch.load(out / "trained_models" / f"{name}.pth", weights_only=True)
        ours = to_state_dict(module, member)
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[key], ours[key]) for key in ours)
        assert (out / "loss_pics" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_log_says_in_their_words_what_the_curve_says(run: Path) -> None:
    began(run, "2025-06-19 23:55:31", "2025-06-20 00:47:02")
    export_tiny(run, run.parent / "out")
    lines = (run.parent / "out" / "logs" / "tinypi0_20250619_2355.txt").read_text().splitlines()
    assert all(re.match(STAMP, line) for line in lines)
    assert lines[0] == "[Info] 2025-06-19 23:55:31 Using device: cpu"
    number = r"\d+\.\d{6}"
    epochs = [rf"\[Epoch {n}/3\] Train loss: {number} \| Val loss: {number} \| LR: \S+" for n in (1, 2, 3)]
    wanted = [*epochs, f"Final Test Loss: {number}", r"Training finished\. Total time: 0:00:\d\d\.\d+"]
    for line, pattern in zip(lines[-5:], wanted, strict=True):
        assert re.fullmatch(STAMP + pattern, line), line
    log = (sorted(run.glob("members/*"))[0] / "train.log").read_text()
    stamp, loss = re.search(r"(\S+ \S+)  seed 0 +step +8 .*validation/loss (\S+)", log).groups()
    epoch = lines[-4]
    assert epoch.startswith(f"[Info] {stamp} [Epoch 2/3]")
    assert float(re.search(r"Val loss: (\S+)", epoch)[1]) == pytest.approx(float(loss), rel=1e-4)


def test_members_that_began_in_one_minute_are_told_apart_by_their_seeds(run: Path) -> None:
    began(run, "2025-06-19 23:55:31", "2025-06-19 23:55:58")
    files = export_tiny(run, run.parent / "out")
    weights = [file.name for file in files if file.suffix == ".pth"]
    assert weights == ["tinypi0_20250619_2355_s0.pth", "tinypi0_20250619_2355_s1.pth"]


def test_one_member_can_be_exported_and_nothing_there_is_replaced_unasked(run: Path) -> None:
    member = sorted(run.glob("members/*"))[1]
    files = export_tiny(member, run.parent / "out")
    assert sorted(file.suffix for file in files) == [".png", ".pth", ".txt"]
    files[0].write_text("precious")
    with pytest.raises(UsageError, match="exists; choose another --out"):
        export_tiny(member, run.parent / "out")
    assert files[0].read_text() == "precious"
    export_tiny(member, run.parent / "out", overwrite=True)
    assert torch.load(files[0], weights_only=True)
    with pytest.raises(StorageError, match="no finished run there"):
        export_tiny(run.parent / "nothing", run.parent / "other")


def test_fast_members_bring_their_tokenizer_in_the_authors_form(tmp_path: Path) -> None:
    run = train(tmp_path / "fast", FAST)
    export_tiny(run, tmp_path / "out")
    models = tmp_path / "out" / "trained_models"
    assert all(path.name.startswith("tinypi0fast_") for path in models.glob("*.pth"))
    found = read_original(models / "fast_tokenizer.json", horizon=10, max_length=12)
    kept = next(run.glob("members/*/tokenizer.json"))
    assert found.fingerprint == type(found).load(kept).fingerprint
    assert "TransformerPi0FAST" in next((tmp_path / "out" / "logs").iterdir()).read_text()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({**PI0, "attention": "bidirectional", "solver": "heun"}, r"model\.attention .*\n.*model\.solver is heun"),
        ({**PI0, "time_embedding": "sinusoidal"}, r"model\.time_embedding"),
        ({**PI0, "normalize": True}, r"model\.normalize is True, theirs False"),
        ({**PI0, "solver_steps": 5}, r"model\.solver_steps is 5, theirs 10"),
        ({**PI0, "noise_clip": None}, r"model\.noise_clip"),
        ({**FAST, "temperature": 0.5}, r"model\.temperature"),
        ({**FAST, "tokenizer": {"kind": "fast", "vocabulary": 400}}, r"model\.tokenizer\.kind is fast, theirs tiny"),
        ({**FAST, "tokenizer": {"scale": 5.0}}, r"model\.tokenizer\.scale"),
    ],
)
def test_what_their_code_cannot_hold_is_refused_by_its_key(run: Path, model: dict[str, Any], words: str) -> None:
    for member in run.glob("members/*"):
        record = read_record(member / "model.json")
        write_record(member / "model.json", {**record, "model": policy(model).model.model_dump(mode="json")})
    with pytest.raises(UsageError, match=words):
        export_tiny(run, run.parent / "out")
    assert not (run.parent / "out").exists()


def test_the_law_of_times_in_training_is_no_hindrance_and_stands_in_the_log(run: Path, tmp_path: Path) -> None:
    drawn = train(tmp_path / "drawn", {**PI0, "time_law": "beta", "time_per": "sample"})
    for path, words in ((run, ""), (drawn, ", time_law beta (theirs uniform), time_per sample (theirs position)")):
        files = export_tiny(path, tmp_path / f"out-{path.name}")
        logs = [file.read_text().splitlines() for file in files if file.suffix == ".txt"]
        assert all(lines[3].endswith(f"an epoch is 4 steps, up to a validation{words}") for lines in logs)
    member = load_pack(tuple(find_members(drawn).values()))
    weights = [torch.load(file, weights_only=True) for file in files if file.suffix == ".pth"]
    assert all(torch.equal(weights[1][key], value) for key, value in to_state_dict(member, 1).items())


def test_angles_and_other_families_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.angles: theta"):
        export_tiny(train(tmp_path / "angles", PI0, swing(angles=True)), tmp_path / "out")
    dynamics = tmp_path / "dynamics"
    run_trial(Trial(experiment(), (0,), "ensemble", dynamics), TrialData(swing(), {}), InlineContext())
    RunDirectory(dynamics).collect()
    with pytest.raises(UsageError, match=r"model\.family gpt_dynamics"):
        export_tiny(dynamics, tmp_path / "out")
