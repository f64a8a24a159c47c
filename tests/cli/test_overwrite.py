"""What `--overwrite` takes away: a run that this program made, and nothing of anybody else, whatever is killed."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ensemble.errors import StorageError, UsageError
from ensemble.run_directory import RunDirectory
from ensemble.study.removal import foreign_files, remove_run, why_not_removed

Run = Callable[..., subprocess.CompletedProcess[str]]

LEFT = Path(__file__).parents[1] / "fixtures" / "run_1beb6e2" / "results" / "earlier"
MINE = "experiment: mine\ndata: {path: mine/data.h5}\ntrain: {steps: 20}\n"


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A run that an earlier version left."""
    return Path(shutil.copytree(LEFT, tmp_path / "results" / "earlier"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_the_users_own_is_no_run_that_overwrite_could_replace(run: Run, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "experiment.yaml").write_text(MINE)
    (mine / "data.h5").write_bytes(b"a year of measurements")
    before = content(tmp_path)
    for more in ((), ("--overwrite",)):
        result = run("train", "--config", "mine/experiment.yaml", "--results", ".", *more)
        assert result.returncode == 2
        assert f"{mine} exists and is no run directory; choose another --results or `experiment:`" in result.stderr
        assert "--overwrite" not in result.stderr
        assert content(tmp_path) == before
    resumed = run("resume", "mine")
    assert resumed.returncode == 2
    assert "mine is no run directory" in resumed.stderr
    assert content(tmp_path) == before


def test_what_lies_in_a_run_beside_its_own_files_is_named_and_stays(run: Run, tmp_path: Path, earlier: Path) -> None:
    (tmp_path / "thesis.yaml").write_text((earlier / "space.yaml").read_text())
    (earlier / "film.gif").write_text("mine")
    (earlier / "members" / "notes.txt").write_text("mine")
    (earlier / "members" / "1d2cad4e1e8b-s0" / "weights.npz").write_text("mine")
    (earlier / "thesis").mkdir()
    before = content(tmp_path)
    result = run("tune", "--space", "thesis.yaml", "--set", "experiment=earlier", "--overwrite")
    assert result.returncode == 2
    named = "film.gif, members/1d2cad4e1e8b-s0/weights.npz, members/notes.txt, .."
    assert f"holds other files ({named}), and --overwrite removes only what a run makes" in result.stderr
    advised = run("tune", "--space", "thesis.yaml", "--set", "experiment=earlier", "--set", "train.steps=7")
    assert advised.returncode == 2
    assert "ensemble resume" in advised.stderr
    assert "--overwrite" not in advised.stderr
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("space", "override", "named"),
    [
        ("results/earlier/space.yaml", "train.steps=7", "the experiment file results/earlier/space.yaml"),
        ("thesis.yaml", "data={path: results/earlier/figures}", "error: data.path "),
        ("thesis.yaml", "train.init_from=results/earlier/members/1d2cad4e1e8b-s0", "error: train.init_from "),
    ],
)
def test_a_run_that_its_successor_is_made_from_stays(
    run: Run, tmp_path: Path, earlier: Path, space: str, override: str, named: str
) -> None:
    (earlier / "figures").mkdir()
    (tmp_path / "thesis.yaml").write_text((earlier / "space.yaml").read_text())
    before = content(tmp_path)
    result = run("tune", "--space", space, "--set", "experiment=earlier", "--set", override, "--overwrite")
    assert result.returncode == 2, result.stderr
    assert named in result.stderr
    assert f"lies inside {earlier}, which --overwrite removes" in result.stderr
    assert content(tmp_path) == before


def test_a_name_in_use_is_met_with_both_ways_on_before_ray_is_loaded(run: Run, tmp_path: Path, earlier: Path) -> None:
    (tmp_path / "thesis.yaml").write_text((earlier / "space.yaml").read_text())
    result = run("tune", "--space", "thesis.yaml", "--set", "experiment=earlier", python=("-X", "importtime"))
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert f"`ensemble resume {earlier}`, or start again with --overwrite" in last
    names = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}
    assert not names & {"ray", "torch"}
    inside = run("resume", "results/earlier/members/1d2cad4e1e8b-s0")
    assert inside.returncode == 2
    assert f"it lies inside a run: `ensemble resume {earlier}`" in inside.stderr


def test_a_run_of_an_earlier_version_is_known_and_all_of_it_is_ours(earlier: Path) -> None:
    assert RunDirectory(earlier).is_run
    assert not RunDirectory(earlier).marker_file.exists()
    assert list(foreign_files(earlier)) == []
    remove_run(earlier, {})
    assert list(earlier.parent.iterdir()) == []


def test_a_run_behind_a_link_is_emptied_where_it_is_and_the_link_stays(tmp_path: Path, earlier: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(earlier)
    beside = earlier.parent / "another"
    beside.mkdir()
    assert remove_run(link, {}) == earlier
    assert link.is_symlink()
    assert list(link.iterdir()) == []
    assert sorted(path.name for path in earlier.parent.iterdir()) == ["another", "earlier"]


def test_what_a_link_in_a_run_leads_to_is_not_followed(tmp_path: Path, earlier: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("mine")
    (earlier / "ray").symlink_to(precious)
    with pytest.raises(UsageError, match=r"holds other files \(ray\)"):
        remove_run(earlier, {})
    assert (precious / "thesis.tex").is_file()
    assert RunDirectory(earlier).is_run


def test_a_removal_that_was_killed_is_finished_by_the_next_one(tmp_path: Path, earlier: Path) -> None:
    results = earlier.parent
    for name in (".earlier.removed", ".earlier.removed-x/earlier"):  # of earlier versions, and of this one
        shutil.copytree(earlier, results / name)
        shutil.rmtree(results / name / "members")
        (results / name / "experiment.yaml").unlink()
    foreign = results / ".earlier.removed-y"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    remove_run(earlier, {})
    assert sorted(path.name for path in results.iterdir()) == [".earlier.removed-y"]
    assert content(results) == {".earlier.removed-y/thesis.tex": b"mine"}


def test_what_cannot_be_removed_is_a_message(tmp_path: Path, earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(self: Path, target: Path) -> Path:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "rename", busy)  # a mount point
    with pytest.raises(StorageError, match="earlier: cannot be removed: Device or resource busy"):
        remove_run(earlier, {})
    assert RunDirectory(earlier).is_run
    assert sorted(path.name for path in earlier.parent.iterdir()) == ["earlier"]


@pytest.mark.parametrize("name", ["report.md/thesis.tex", "members/1d2cad4e1e8b-s2/checkpoints/step-00000300/x.pt"])
def test_a_file_deep_in_a_run_that_no_run_makes_keeps_it(earlier: Path, name: str) -> None:
    (earlier / name).parent.mkdir(exist_ok=True)
    (earlier / name).write_text("mine")
    shown = name if name.startswith("members") else "report.md"
    with pytest.raises(UsageError, match=rf"holds other files \({shown}\)"):
        remove_run(earlier, {})
    assert (earlier / name).read_text() == "mine"


def test_every_file_that_a_run_is_said_to_have_is_its_own(tmp_path: Path) -> None:
    run, member = RunDirectory(tmp_path), RunDirectory(tmp_path).member("0123456789ab-s0")
    folders = ("figures", "members", "ray", "checkpoints")
    for directory in (run, member):
        for name in (name for name, kind in vars(type(directory)).items() if isinstance(kind, property)):
            path = getattr(directory, name)
            if isinstance(path, Path) and path.name not in folders:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    for path in (*map(run.report_file, ("html", "md", "csv", "tex")), *map(run.evaluation_report, ("md", "csv"))):
        path.touch()
    run.evaluation_report("csv", "evaluation_90_of_seed_1").touch()  # of a second seed
    assert (tmp_path / "members.parquet").is_file()
    assert (member.path / "model.json").is_file()
    assert list(foreign_files(tmp_path)) == []


def test_nothing_stands_against_the_removal_of_a_run_alone(tmp_path: Path, earlier: Path) -> None:
    assert why_not_removed(earlier, {"the experiment file": tmp_path / "thesis.yaml"}) is None
    assert why_not_removed(tmp_path / "nothing", {}) is None
