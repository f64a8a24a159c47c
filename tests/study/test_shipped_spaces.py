"""Every shipped experiment file: its head, its configurations over every branch, and some of them built and stepped."""

from pathlib import Path

import pytest

from ensemble.config import Choice, Experiment, ExperimentFile, load, shipped
from ensemble.config.forks import forks
from ensemble.data.trajectories import Trajectories, read_trajectories
from ensemble.planning.cost import cost_of
from ensemble.planning.estimate import estimate_time, rough_speed, survey
from ensemble.planning.sample import sample_space
from ensemble.study.prepare import check_experiments, find_origin, prepare
from ensemble.training.context import InlineContext
from ensemble.training.pack import Pack
from ensemble.training.setup import Setup, TrialData
from ensemble.training.tasks import set_up

FILES = sorted(shipped().glob("*.yaml"))
SEARCHES = [path for path in FILES if load(path).searched]
SMALL = "{episodes: 40, steps: 60}"
STEPPED = 3  # of each file: the smallest, the median and the largest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of all these tests, made once."""
    return tmp_path_factory.mktemp("shipped")


def small(path: Path) -> ExperimentFile:
    """Load a file with little data; EMPS is measured and not shipped, so its file has no data here."""
    file = load(path)
    if file.first.data.source is None:
        pytest.skip("its data are not shipped")
    return load(path, [f"data.simulate={SMALL}"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_opens_with_its_question_its_command_and_its_cost(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0] == "# yaml-language-server: $schema=schema.json"
    head = [line for line in lines if line.startswith("#")]
    for word in ("# Question: ", "# Command:  ", "# Cost:     "):
        assert any(line.startswith(word) for line in head), word
    command = next(line for line in head if line.startswith("# Command:"))
    assert ("tune --space" if path in SEARCHES else "train --config") + f" {path.name}" in command
    assert load(path).first.experiment == path.stem


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_samples_reach_every_option_of_every_choice(path: Path) -> None:
    file = load(path)
    reached: set[tuple[str, int]] = set()

    def note(name: str, distribution: object, answer: int) -> int:
        if isinstance(distribution, Choice):
            reached.add((name, answer))
        return answer

    wanted = {
        (fork.name, index)
        for fork, _ in forks(file.tree)
        if isinstance(fork.distribution, Choice)
        for index in range(len(fork.candidates))
    }
    for fork, needs in forks(file.tree):
        for index, _ in enumerate(fork.candidates):
            forced = {choice.name: choice.candidates.index(option) for choice, option in needs} | {fork.name: index}
            _force(file, forced, note)
    assert wanted <= reached


def _force(file: ExperimentFile, forced: dict[str, int], note) -> Experiment:  # type: ignore[no-untyped-def]
    """Build one configuration with these options; numbers at their low end, and shapes that fit."""
    easy = {"model.n_head": 0, "model.n_embd": -1}

    def ask(name: str, distribution):  # type: ignore[no-untyped-def]
        if not isinstance(distribution, Choice):
            return distribution.low
        index = forced.get(name, easy.get(name, 0)) % len(distribution.options)
        return note(name, distribution, index)

    return file.resolve(ask)


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_less_than_half_of_a_space_is_impossible(path: Path) -> None:
    sample = sample_space(load(path), 200)
    assert sample.infeasible < 0.5 * sample.looked_at
    assert len(sample.hashes) == len(sample.configurations)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_some_configurations_fit_their_data_and_take_a_step(path: Path, folder: Path) -> None:
    file = small(path)
    data = prepare(file.first.data, path.parent, folder / "results", lambda line: None)
    read = read_trajectories(data.main)
    sample = sample_space(file, 60)
    check_experiments(sample.configurations, data)
    assert find_origin(file.first.train.init_from, path.parent) is None
    ordered = sorted(sample.configurations, key=lambda each: cost_of(each, read.features).parameters)
    for experiment in {id(each): each for each in (ordered[0], ordered[len(ordered) // 2], ordered[-1])}.values():
        step(experiment, read)


def step(experiment: Experiment, data: Trajectories) -> None:
    """Train one step of a small batch: width and depth are what can fail."""
    train = experiment.train.model_copy(update={"batch_size": 8, "validation_windows": 8})
    tried = experiment.model_copy(update={"train": train})
    context = InlineContext()
    setup: Setup = set_up(tried, TrialData(data, {}), context)
    pack = Pack(tried, setup.features, setup.normalization, (0, 1), context, wrap=False)
    result = pack.step(setup.batches(pack, 8, context).at(0), [1e-3, 1e-3])
    assert all(0 < loss < 100 for loss in result.loss)
    assert len(pack.arena.values[0]) == cost_of(experiment, data.features).parameters


def test_the_quick_search_is_quick_and_the_large_one_is_not(folder: Path) -> None:
    def hours_of(name: str) -> float:
        counted = survey(load(shipped() / f"{name}.yaml"), folder / "results", "cpu")
        return estimate_time(counted, rough_speed(counted)).total / 3600

    assert hours_of("gpt_quick") < 0.5
    assert hours_of("gpt_large") > 12
