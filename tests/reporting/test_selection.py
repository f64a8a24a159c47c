"""Which configuration `explain` means, and the list that it prints without one."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from synthetic_run import build_run, build_search, hash_of

from ensemble.cli import cli
from ensemble.errors import UsageError
from ensemble.reporting.number_format import setting
from ensemble.reporting.report import write_report
from ensemble.reporting.run import Run, read_run
from ensemble.reporting.selection import find_configuration, list_configurations


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(build_search(tmp_path_factory.mktemp("search") / "hunt"))


@pytest.fixture
def plain(tmp_path: Path) -> Run:
    return read_run(build_run(tmp_path / "plain"))


def rates(run: Run) -> dict[str, float]:
    """Return {config_hash: learning rate} of the trials."""
    assert run.search is not None
    pairs = ((t.config_hash, v) for t in run.search.trials for path, v in t.settings.items() if path.endswith(".lr"))
    return dict(pairs)


def test_best_is_the_configuration_that_the_report_calls_so(searched: Run, plain: Run, tmp_path: Path) -> None:
    report = write_report(shutil.copytree(searched.path, tmp_path / "hunt"), figures=False)
    assert report.findings is not None
    assert find_configuration(searched, "best") == find_configuration(searched, str(report.findings.mark))
    best = write_report(plain.path, figures=False).best
    assert best is not None
    assert find_configuration(plain, "best") == best["config_hash"]


def test_a_setting_selects_the_configuration_that_has_it_however_it_is_spelled(searched: Run, plain: Run) -> None:
    for config, rate in list(rates(searched).items())[:4]:
        for name in ("lr", "optimizer.lr", "train.optimizer.lr"):
            assert find_configuration(searched, f"{name}={setting(rate)}") == config
    assert find_configuration(plain, "n_embd=192") != find_configuration(plain, "n_embd=384.0")
    assert find_configuration(plain, "lr=0.001,n_embd=192") == find_configuration(plain, "n_embd=192, lr=1e-3")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr=3e-3", "no configuration with lr=3e-3; train.optimizer.lr is 1e-3"),
        ("lr=1e-3", "lr=1e-3 are 2 configurations: "),
        ("n_emb=192", "no setting 'n_emb'; did you mean 'n_embd'?"),
        ("lr=", "needs NAME=VALUE"),
    ],
)
def test_a_setting_that_means_no_one_configuration_is_refused_with_what_there_is(
    plain: Run, text: str, said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        find_configuration(plain, text)
    assert said in str(refused.value)


def test_the_list_has_every_configuration_best_first_with_its_hash_and_settings(searched: Run) -> None:
    lines = list_configurations(searched).splitlines()
    assert searched.search is not None
    for number in range(len(searched.search.trials)):
        assert any(f"  {hash_of(number)}  " in line for line in lines)
    finalists = lines[1 : lines.index("search, by validation/rollout_rmse")]
    assert finalists[0].split()[0] == find_configuration(searched, "best")
    assert all("±" in line and "lr=" in line for line in finalists)


def test_explain_lists_configurations_when_none_is_named(plain: Run) -> None:
    result = CliRunner().invoke(cli, ["explain", str(plain.path)])
    assert result.exit_code == 0
    assert result.stdout.startswith("ensemble, by test/rollout_rmse\n")
    assert result.stdout.splitlines()[-1] == f"next: ensemble explain {plain.path} best"
