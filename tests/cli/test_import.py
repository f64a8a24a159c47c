"""`ensemble import` and `ensemble export`: policies from and to the files of tiny pi0's authors."""

import io
import json
import re
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ensemble
from ensemble.cli import main
from ensemble.closed_loop.episodes import draw_episodes, run_episodes
from ensemble.config import load
from ensemble.config.policy import Pi0Config
from ensemble.data.trajectories import read_trajectories
from ensemble.models.base import Noise
from ensemble.models.noise import noise_keys
from ensemble.store import read_record, read_table, write_record
from ensemble.tokenizers.original import read_original, write_original
from ensemble.tokenizers.tokenizer import ActionTokenizer

HERE = Path(__file__).parent
STATES = np.random.default_rng(5).uniform(-0.5, 0.5, (6, 4)).astype(np.float32)
LONG = 50


class TinyPi0(nn.Module):
    """The authors' network, from torch's own modules."""

    def __init__(self, width: int = 32, layers: int = 2, actions: int = 1) -> None:
        super().__init__()
        self.state_embedding, self.action_embedding = nn.Linear(4, width), nn.Linear(actions, width)
        self.time_embedding, self.position_embedding = nn.Linear(1, width), nn.Embedding(LONG + 1, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, activation="gelu", batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.flow_output = nn.Linear(width, actions)

    @torch.no_grad()
    def sample(self, state: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.ones(LONG + 1, LONG + 1, dtype=torch.bool).triu(1)
        for i in range(10):
            later = self.action_embedding(x) + self.time_embedding(torch.full((*x.shape[:2], 1), i / 10))
            h = torch.cat([self.state_embedding(state)[:, None], later], 1) + self.position_embedding.weight
            x = x + self.flow_output(self.transformer(h, mask=hidden)[:, 1:]) / 10
        return x


class TinyPi0Fast(nn.Module):
    """The authors' network of the tokens, from torch's own modules."""

    def __init__(self, vocabulary: int = 256, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.state_embedding = nn.Linear(4, width)
        self.token_embedding = nn.Embedding(vocabulary, width, padding_idx=2)
        self.position_embedding = nn.Embedding(25, width)
        layer = nn.TransformerDecoderLayer(width, 4, 2 * width, activation="gelu", batch_first=True)
        self.transformer = nn.TransformerDecoder(layer, layers)
        self.output_layer = nn.Linear(width, vocabulary)

    @torch.no_grad()
    def generate(self, state: torch.Tensor) -> list[int]:
        """The likeliest tokens of one state (4,), to [EOS]."""
        tokens = [0]
        while len(tokens) < 25 and tokens[-1] != 1:
            h = self.token_embedding(torch.tensor([tokens])) + self.position_embedding.weight[: len(tokens)]
            hidden = torch.ones(len(tokens), len(tokens), dtype=torch.bool).triu(1)
            h = self.transformer(h, self.state_embedding(state)[None, None], tgt_mask=hidden)
            tokens.append(int(self.output_layer(h)[0, -1].argmax()))
        return tokens


def command(*arguments: object) -> int:
    """Run the command in this process and return its exit code."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


def twin(kind: Callable[[], nn.Module], path: Path, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module = kind().eval()
    torch.save(module.state_dict(), path)
    return module


def write_tokenizer(path: Path, vocabulary: int = 256) -> Path:
    random, time = np.random.default_rng(0), np.arange(LONG)
    chunks = random.normal(0, 0.5, (300, 1)) * np.exp(-time / 8) * np.cos(time / random.uniform(3, 8, (300, 1)))
    tokenizer = ActionTokenizer.fit(chunks[..., None], "tiny", scale=10, vocabulary=vocabulary, max_length=25)
    write_original(tokenizer, path)
    return path


def members(run: Path) -> list[dict[str, Any]]:
    return read_table(run / "members.parquet").to_pylist()


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in an empty directory; what the command does to SIGTERM ends with the test."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


def test_an_imported_pi0_acts_as_its_twin(there: Path) -> None:
    twins = [twin(TinyPi0, there / f"tinypi0_2025062{n}_0133.pth", n) for n in range(2)]
    files = sorted(there.glob("*.pth"))
    assert command("import", *files, "--family", "pi0", "--name", "tiny") == 0
    policies = ensemble.load_policy(there / "results" / "tiny")
    assert policies.seeds == (0, 1)
    chunks = policies.act(STATES)
    noise = policies._module.noise(Noise(noise_keys((0,), 0), torch.arange(len(STATES), dtype=torch.int32)[None]))
    for chunk, module in zip(chunks, twins, strict=True):
        np.testing.assert_allclose(chunk, module.sample(torch.from_numpy(STATES), noise[0]), atol=1e-5)


def test_an_imported_pi0_fast_acts_as_its_twin(there: Path) -> None:
    module = twin(TinyPi0Fast, there / "tinypi0fast.pth")
    json_file = write_tokenizer(there / "fast_tokenizer.json")
    arguments = ("--family", "pi0_fast", "--tokenizer", json_file, "--name", "fast")
    assert command("import", there / "tinypi0fast.pth", *arguments) == 0
    tokenizer = read_original(json_file)
    chunks = ensemble.load_policy(there / "results" / "fast").act(STATES)[0]
    for chunk, state in zip(chunks, STATES, strict=True):
        tokens = module.generate(torch.from_numpy(state))
        np.testing.assert_allclose(chunk, tokenizer.decode(np.array([tokens]))[0][0], atol=1e-5)


def test_sizes_come_from_shapes_and_rows_say_which_file(there: Path) -> None:
    twin(TinyPi0, there / "a.pth")
    twin(TinyPi0, there / "b.pth", 1)
    assert command("import", "b.pth", "a.pth", "--family", "pi0", "--name", "tiny", "--results", "runs") == 0
    run = there / "runs" / "tiny"
    model = load(run / "experiment.yaml").first.model
    assert isinstance(model, Pi0Config)
    assert (model.chunk, model.n_layer, model.n_head, model.n_embd, model.n_inner) == (50, 2, 4, 32, 64)
    rows = members(run)
    assert [(row["seed"], row["imported_from"]) for row in rows] == [(0, "b.pth"), (1, "a.pth")]
    assert {(row["status"], row["role"], row["error"], row["steps"]) for row in rows} == {
        ("completed", "ensemble", "", None)
    }
    assert {row["validation/action_mae"] for row in rows} == {None}
    assert len({row["weights_sha256"] for row in rows}) == 2
    assert [path.name for path in (there / "runs").iterdir()] == ["tiny"]


def test_an_imported_run_is_finished_and_says_that_it_was_not_measured(
    there: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twin(TinyPi0, there / "a.pth")
    command("import", "a.pth", "--family", "pi0", "--name", "tiny")
    for arguments in (("resume", "results/tiny"), ("report", "results/tiny", "--no-figures")):
        capsys.readouterr()
        assert command(*arguments) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        assert re.match(r"next: ensemble evaluate \S*results/tiny\b", last)
    assert "1 not measured" in (there / "results" / "tiny" / "report.md").read_text()
    capsys.readouterr()
    assert command("explain", "results/tiny", members(there / "results" / "tiny")[0]["config_hash"]) == 0
    said = capsys.readouterr().out
    assert "a.pth  sha256" in said
    assert "train seed 0 again" not in said


def test_export_and_import_again_give_equal_weights(there: Path) -> None:
    for n in range(2):
        twin(TinyPi0Fast, there / f"tinypi0fast_2025062{n}_0133.pth", n)
    tokenizer = write_tokenizer(there / "fast_tokenizer.json")
    fast = ("--family", "pi0_fast", "--tokenizer")
    command("import", *sorted(there.glob("*.pth")), *fast, tokenizer, "--name", "once")
    assert command("export", "results/once", "--layout", "tinypi0", "--out", "out") == 0
    models = there / "out" / "trained_models"
    names = ["fast_tokenizer.json", "tinypi0fast_20250620_0133.pth", "tinypi0fast_20250621_0133.pth"]
    assert sorted(path.name for path in models.iterdir()) == names
    theirs = TinyPi0Fast()
    theirs.load_state_dict(torch.load(models / names[1], weights_only=True))
    command("import", *sorted(models.glob("*.pth")), *fast, models / names[0], "--name", "again")
    once, again = members(there / "results" / "once"), members(there / "results" / "again")
    assert [row["weights_sha256"] for row in once] == [row["weights_sha256"] for row in again]
    tokenizers = [next((there / "results" / run).glob("members/*/tokenizer.json")) for run in ("once", "again")]
    assert tokenizers[0].read_bytes() == tokenizers[1].read_bytes()


def test_weights_act_in_their_code_as_here_whatever_the_law_of_times_they_were_trained_with(there: Path) -> None:
    twin(TinyPi0, there / "a.pth")
    command("import", "a.pth", "--family", "pi0", "--name", "tiny")
    record = next((there / "results" / "tiny" / "members").glob("*/model.json"))
    model = read_record(record)
    model["model"] |= {"time_law": "beta", "time_per": "sample"}
    write_record(record, model)
    assert command("export", "results/tiny", "--layout", "tinypi0", "--out", "out") == 0
    theirs = TinyPi0().eval()
    (weights,) = (there / "out" / "trained_models").glob("*.pth")
    theirs.load_state_dict(torch.load(weights, weights_only=True))
    policy = ensemble.load_policy(there / "results" / "tiny")
    noise = policy._module.noise(Noise(noise_keys((0,), 0), torch.arange(len(STATES), dtype=torch.int32)[None]))
    np.testing.assert_allclose(policy.act(STATES)[0], theirs.sample(torch.from_numpy(STATES), noise[0]), atol=1e-5)


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("touched"),)


def poisoned(path: Path) -> None:
    torch.save({"state_embedding.weight": Evil()}, path)


def unlike(path: Path, **changes: Any) -> None:
    """Write a tiny pi0 of which some entries are others; None leaves one out."""
    state = {**TinyPi0().state_dict(), **{name.replace("__", "."): value for name, value in changes.items()}}
    torch.save({name: value for name, value in state.items() if value is not None}, path)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "an object": (poisoned, r"bad\.pth: holds the object"),
    "a module": (lambda path: torch.save(TinyPi0(), path), r"bad\.pth: holds the object"),
    "a checkpoint": (
        lambda path: torch.save({"model": TinyPi0().state_dict(), "epoch": 3}, path),
        r"bad\.pth: model is a \w+, not a tensor by name.*\n.*epoch is a int",
    ),
    "a tensor": (lambda path: torch.save(torch.zeros(3), path), r"bad\.pth: holds a Tensor"),
    "nothing": (lambda path: torch.save({}, path), r"bad\.pth: holds nothing"),
    "an empty file": (lambda path: path.write_bytes(b""), r"bad\.pth: no file of torch\.save, or damaged"),
    "text": (lambda path: path.write_text("tiny"), r"bad\.pth: no file of torch\.save, or damaged"),
    "a pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "another width": (lambda path: unlike(path, flow_output__bias=torch.zeros(2)), r"bad\.pth: flow_output\.bias"),
    "a lacking name": (lambda path: unlike(path, flow_output__bias=None), r"bad\.pth: flow_output\.bias: missing"),
    "a strange name": (lambda path: unlike(path, more=torch.zeros(2)), r"bad\.pth: more: the model has no such"),
    "half precision": (lambda path: unlike(path, flow_output__bias=torch.zeros(1).half()), "is float16, not float32"),
    "not a number": (lambda path: unlike(path, flow_output__bias=torch.tensor([torch.nan])), "is not finite"),
    "the other family": (lambda path: torch.save(TinyPi0Fast().state_dict(), path), "looks like --family pi0_fast"),
    "two actions": (lambda path: torch.save(TinyPi0(actions=2).state_dict(), path), r"2 action\(s\)"),
    "other sizes": (lambda path: torch.save(TinyPi0(layers=3).state_dict(), path), r"bad\.pth: n_layer 3, but .*good"),
    "the same weights": (lambda path: shutil.copy(path.parent / "good.pth", path), r"the same weights as .*good\.pth"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_of_anything_else_is_refused_by_name_and_nothing_is_written(
    there: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    write, words = BAD[what]
    twin(TinyPi0, there / "good.pth")
    write(there / "bad.pth")
    assert command("import", "good.pth", "bad.pth", "lacking.pth", "--family", "pi0", "--name", "tiny") == 4
    said = capsys.readouterr().err
    if what not in ("another width", "a lacking name", "a strange name", "the same weights"):
        assert "lacking.pth: no such file" in said  # all that cannot be read at once
        assert re.search(words, said), said
    assert command("import", "good.pth", "bad.pth", "--family", "pi0", "--name", "tiny") == 4
    assert re.search(words, capsys.readouterr().err)
    assert sorted(path.name for path in there.iterdir()) == ["bad.pth", "good.pth"]


@pytest.mark.parametrize("at", range(0, 1000, 125))
def test_a_damaged_pickle_is_refused_by_name(there: Path, capsys: pytest.CaptureFixture[str], at: int) -> None:
    buffer = io.BytesIO()
    torch.save(TinyPi0().state_dict(), buffer)
    with zipfile.ZipFile(buffer) as good, zipfile.ZipFile(there / "bad.pth", "w") as bad:
        for name in good.namelist():
            content = bytearray(good.read(name))
            if name.endswith("data.pkl"):
                place = len(content) * at // 1000
                content[place : place + 8] = bytes(range(at % 250, at % 250 + 8))[: len(content) - place]
            bad.writestr(name, bytes(content))
    assert command("import", "bad.pth", "--family", "pi0", "--name", "tiny") == 4
    assert "error: bad.pth: " in capsys.readouterr().err


def test_tokens_need_the_tokenizer_that_the_weights_know(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twin(lambda: TinyPi0Fast(vocabulary=200), there / "f.pth")
    twin(TinyPi0, there / "p.pth")
    larger = write_tokenizer(there / "larger.json")
    (there / "broken.json").write_text(json.dumps({"vocab": {}}))
    fast = ("import", "f.pth", "--family", "pi0_fast", "--name", "x")
    for arguments, code, words in (
        (fast, 2, "--tokenizer"),
        ((*fast, "--tokenizer", larger), 4, "the weights know 200 tokens"),
        ((*fast, "--tokenizer", "broken.json"), 5, "broken.json: is not a tokenizer"),
        (("import", "p.pth", "--family", "pi0", "--name", "x", "--tokenizer", larger), 2, "pi0 has none"),
        (("import", "p.pth", "--family", "pi0", "--name", "x", "--heads", "5"), 2, "not divisible by n_head 5"),
        (("import", "p.pth", "--family", "pi0", "--name", "../x"), 2, "experiment"),
    ):
        assert command(*arguments) == code
        assert words in capsys.readouterr().err
    assert not (there / "results").exists()


def test_what_is_there_is_replaced_only_when_asked(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twin(TinyPi0, there / "a.pth")
    twin(TinyPi0, there / "b.pth", 1)
    one = ("--family", "pi0", "--name", "tiny")
    command("import", "a.pth", *one)
    first = members(there / "results" / "tiny")
    assert command("import", "b.pth", *one) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert members(there / "results" / "tiny") == first
    assert command("import", "b.pth", *one, "--overwrite") == 0
    assert [row["imported_from"] for row in members(there / "results" / "tiny")] == ["b.pth"]
    (there / "results" / "mine").mkdir()
    (there / "results" / "mine" / "thesis.txt").write_text("precious")
    assert command("import", "a.pth", "--family", "pi0", "--name", "mine", "--overwrite") == 2
    assert (there / "results" / "mine" / "thesis.txt").is_file()
    export = ("export", "results/tiny", "--layout", "tinypi0", "--out", "out")
    assert [command(*export), command(*export), command(*export, "--overwrite")] == [0, 2, 0]


FAMILIES: dict[str, Callable[[], nn.Module]] = {"pi0": TinyPi0, "pi0_fast": TinyPi0Fast}


class TwinDriver:
    """The authors' network at the wheel, from the noise that ours draws."""

    def __init__(self, module: nn.Module, run: Path, tokenizer: ActionTokenizer) -> None:
        self.module, self.tokenizer = module, tokenizer
        self.noise = ensemble.load_policy(run)._module.noise if isinstance(module, TinyPi0) else None
        self.reset()

    def reset(self) -> None:
        self.asked = 0

    def act(self, observation: np.ndarray) -> np.ndarray:
        states = torch.from_numpy(observation[0].astype(np.float32))
        if self.noise is None:
            tokens = [self.module.generate(state) for state in states]
            chunks = np.concatenate([self.tokenizer.decode(np.array([each]))[0] for each in tokens])
        else:
            episodes = torch.arange(len(states), dtype=torch.int32)[None]
            chunks = self.module.sample(states, self.noise(Noise(noise_keys((0,), self.asked), episodes))[0]).numpy()
        self.asked += 1
        return chunks[None]


@pytest.mark.parametrize("family", FAMILIES)
def test_imported_policies_drive_the_pendulum(there: Path, capsys: pytest.CaptureFixture[str], family: str) -> None:
    twins = [twin(FAMILIES[family], there / f"{n}.pth", n) for n in range(2)]
    tokenizer = write_tokenizer(there / "fast_tokenizer.json")
    of_tokens = ("--tokenizer", tokenizer) if family == "pi0_fast" else ()
    command("import", "0.pth", "1.pth", "--family", family, "--name", "tiny", *of_tokens)
    setting = ("--episodes", "3", "--noise", "0.05", "--replan", "10")
    capsys.readouterr()
    assert command("evaluate", "results/tiny", *setting) == 0
    said = capsys.readouterr().out
    assert "2 members of 1 configuration, their mean and the nearest to their median" in said
    run = there / "results" / "tiny"
    rows = read_table(run / "evaluation.parquet").to_pylist()
    assert {row["family"] for row in rows if row["controller"] == "member"} == {family}
    assert sorted(row["controller"] for row in rows) == ["expert", "mean", "median", "member", "member", "zero"]
    sums = [row["weights_sha256"] for row in members(run)]
    assert [row["weights_sha256"] for row in rows if row["controller"] == "member"] == sums
    for seed, module in enumerate(twins):
        steps = next(row["episode_steps"] for row in rows if row["seed"] == seed)
        driver = TwinDriver(module, run, read_original(tokenizer))
        assert steps == run_episodes(driver, draw_episodes(3), replan=10, noise=0.05).steps[0].tolist()
    (run / "evaluation.parquet").unlink()
    member = next(run.glob("members/*-s1"))
    assert command("evaluate", member, *setting, "--video", "film.gif", "--record", "episodes.h5") == 0
    assert "device cpu: 1 member of 1 configuration\n" in capsys.readouterr().out
    again = {row["seed"]: row["episode_steps"] for row in read_table(run / "evaluation.parquet").to_pylist()}
    assert again[1] == steps


def test_imported_policies_read_what_the_simulated_pendulum_and_imported_pairs_have(there: Path) -> None:
    twin(TinyPi0, there / "a.pth")
    command("import", "a.pth", "--family", "pi0", "--name", "tiny")
    command("simulate", "inverted_pendulum", "--episodes", "2", "--steps", "60", "--out", "simulated.h5")
    np.savez(there / "pairs.npz", state=STATES, action_chunk=np.zeros((len(STATES), LONG), np.float32))
    imported = ensemble.load_policy(there / "results" / "tiny").features
    for file in ("simulated.h5", "pairs.npz"):
        assert command("convert", file, "--out", f"shards/{file}") == 0
        assert read_trajectories(there / "shards" / file).features == imported
