import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ensemble.config import find_space, shipped
from ensemble.errors import UsageError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_here_comes_before_one_in_search_spaces(elsewhere):
    (elsewhere / "search_spaces").mkdir()
    for folder in (elsewhere / "search_spaces", elsewhere):
        (folder / "mine.yaml").write_text("")
        assert find_space("mine.yaml").resolve() == folder / "mine.yaml"
        assert find_space("mine").resolve() == folder / "mine.yaml"


def test_a_path_is_taken_as_it_is(elsewhere):
    (elsewhere / "deep").mkdir()
    (elsewhere / "deep" / "a.yaml").write_text("")
    assert find_space("deep/a.yaml") == Path("deep/a.yaml")
    assert find_space(str(elsewhere / "deep" / "a.yaml")) == elsewhere / "deep" / "a.yaml"


def test_the_shipped_files_are_found_from_anywhere(elsewhere):
    assert shipped() == ROOT / "search_spaces"
    for path in shipped().glob("*.yaml"):
        assert find_space(path.name) == path


@pytest.mark.parametrize("name", ["qickstart", "qickstart.yaml"])
def test_a_name_that_is_not_found_gives_the_nearest_and_the_folders(elsewhere, name):
    (elsewhere / "quickstart.yaml").write_text("")
    with pytest.raises(UsageError) as caught:
        find_space(name)
    assert f"no experiment file {name!r}; did you mean 'quickstart'" in str(caught.value)
    assert str(elsewhere / "search_spaces") in str(caught.value)


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/b/c"])
def test_a_name_that_is_no_file_is_refused(elsewhere, name):
    with pytest.raises(UsageError, match="no experiment file"):
        find_space(name)


def test_a_wheel_carries_the_search_spaces_and_every_package(tmp_path: Path):
    pytest.importorskip("setuptools", reason="the build backend is not in this environment")
    source = tmp_path / "source"
    source.mkdir()
    listed = subprocess.run(
        [
            "git",
            "ls-files",
            "-co",
            "--exclude-standard",
            "ensemble",
            "search_spaces",
            "*.toml",
            "setup.py",
            "README.md",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    (source / "README.md").touch()
    (source / "search_spaces" / "probe.yaml").write_text("# a file\n")
    code = "from setuptools.build_meta import build_wheel; import sys; print(build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, tmp_path], cwd=source, capture_output=True, check=True)
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"ensemble/search_spaces/probe.yaml", "ensemble/search_spaces/schema.json"} <= names
    assert {name for name in listed if name.startswith("ensemble/")} <= names
    assert not any(name.startswith("search_spaces/") for name in names)
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = "from ensemble.config import find_space; print(find_space('probe'))"
    found = subprocess.run([sys.executable, "-c", code], cwd=site, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == site / "ensemble" / "search_spaces" / "probe.yaml"
