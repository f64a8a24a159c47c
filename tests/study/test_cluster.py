"""The resources of trials on nodes."""

import pytest

from ensemble.config import ResourcesConfig
from ensemble.errors import UsageError
from ensemble.study.cluster import ClusterNode, Needs, needs, slots
from ensemble.study.runner import split_seeds

LAPTOP = ClusterNode("laptop", 2.0, 0.0, 16 * 2**30)
SERVER = ClusterNode("server", 64.0, 4.0, 256 * 2**30)


def test_a_trial_asks_for_a_gpu_where_there_are_any() -> None:
    assert needs(ResourcesConfig(), [LAPTOP], None).bundle == {"CPU": 1}
    assert needs(ResourcesConfig(), [SERVER], None).bundle == {"CPU": 1, "GPU": 1}
    assert needs(ResourcesConfig(), [SERVER], "cpu").bundle == {"CPU": 1}
    assert needs(ResourcesConfig(gpus_per_worker=0.5), [SERVER], "cuda").bundle == {"CPU": 1, "GPU": 0.5}
    assert needs(ResourcesConfig(threads=4), [SERVER], "cpu").bundle == {"CPU": 4}


def test_trials_run_at_once_as_often_as_their_scarcest_resource_allows() -> None:
    assert slots(Needs(1, 1, 0, 0), [LAPTOP]) == 2
    assert slots(Needs(1, 1, 1, 0), [LAPTOP, SERVER]) == 4
    assert slots(Needs(1, 1, 0.5, 100 * 2**30), [SERVER]) == 2
    assert slots(Needs(2, 1, 1, 0), [SERVER, SERVER]) == 4
    assert slots(Needs(2, 40, 0, 0), [SERVER, SERVER]) == 1


def test_what_no_node_holds_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"needs 1 CPU, 1 GPU; the largest .* laptop, has 2 CPU, 0 GPU, 16.0 GiB"):
        slots(Needs(1, 1, 1, 0), [LAPTOP])
    with pytest.raises(UsageError, match=r"resources.workers: a trial needs 3 workers .* hold 2 such workers"):
        slots(Needs(3, 1, 0, 0), [LAPTOP])
    with pytest.raises(UsageError, match=r"32.0 GiB"):
        slots(Needs(1, 1, 0, 32 * 2**30), [LAPTOP])


@pytest.mark.parametrize("pack", ["auto", 1, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_seeds_are_spread_over_the_slots_each_once(count: int, pack: int | str) -> None:
    trials = split_seeds(range(10), count, pack)
    assert [seed for seeds in trials for seed in seeds] == list(range(10))
    assert len(trials) <= max(count, 1)
    assert all(len(seeds) >= (pack if isinstance(pack, int) else 1) for seeds in trials[:-1])
