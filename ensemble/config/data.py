"""The `data:` section: origin of trajectories, roles of features, and splits."""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ensemble.config.base import LARGEST_INTEGER, MOST_EPISODES, MOST_POINTS, Description, Name, Section, unset

Layout = Literal[
    "auto",
    "nerd",
    "robomimic",
    "robosuite",
    "lerobot",
    "minari",
    "maniskill",
    "aloha",
    "mocapact",
    "d4rl",
    "npz",
    "pairs",
    "map",
]
TimeAxis = Literal["first", "second", "last"]
ArrayKey = Annotated[str, Field(min_length=1), Description("the name of an array")]
FeatureName = Annotated[str, Field(min_length=1, max_length=200)]


class RowRange(Section):
    """Rows of one episode as a split, for files of one long recording."""

    rows: list[Annotated[int, Field(ge=0)]] = Field(
        min_length=2, max_length=2, description="first point and the one after the last (end), counted after decimation"
    )
    episode: str | None = Field(None, description="name of the episode; needed where there is more than one")

    @model_validator(mode="after")
    def _ascend(self) -> Self:
        if self.rows[0] >= self.rows[1]:
            raise ValueError(
                f"rows {self.rows[0]} to {self.rows[1]} are none: give the first and the one after the last"
            )
        return self


SplitShare = Annotated[
    Annotated[float, Field(gt=0, lt=1)]
    | Annotated[int, Field(ge=1, le=10_000_000)]
    | Annotated[list[str], Field(min_length=1)]
    | RowRange,
    Description(
        "a fraction between 0 and 1, a number of episodes of at least 1, a list of names, or {rows: [first, end]}"
    ),
]


class SimulateConfig(Section):
    """How much to simulate when `data.source` names an environment."""

    episodes: int = Field(1000, ge=1, le=MOST_EPISODES, description="number of trajectories")
    steps: int = Field(100, ge=1, le=MOST_POINTS, description="transitions per trajectory")
    seed: int = Field(0, ge=0, le=LARGEST_INTEGER, description="seed of everything random in it, as initial states")
    passive: bool = Field(
        True,
        description="double_pendulum: no joint torques; false draws torques at every step and records them. "
        "inverted_pendulum: stays true, its expert drives",
    )


class FeatureMap(Section):
    """Where one feature is found in a foreign file, or what it is derived from."""

    key: ArrayKey | Annotated[list[ArrayKey], Field(min_length=1)] | None = Field(
        None, description="data set inside each episode group, e.g. obs/joint_pos; of a list, the columns side by side"
    )
    columns: list[Annotated[int, Field(le=10_000_000)]] | None = Field(
        None, description="columns to keep, in this order; all by default"
    )
    derivative_of: str | None = Field(None, description="feature whose finite difference in time this is (needs dt)")
    scale: float = Field(1.0, description="factor applied before the cast to float32")
    time_axis: TimeAxis | None = Field(
        None, exclude_if=unset, description="axis of an array along which time runs; default: data's"
    )

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of its arrays; () for a derivative."""
        return () if self.key is None else (self.key,) if isinstance(self.key, str) else tuple(self.key)

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.key is None) == (self.derivative_of is None):
            raise ValueError("give either `key` or `derivative_of`")
        return self


class SplitConfig(Section):
    """Which episodes train, validate and test: fractions, numbers of episodes, lists of names, or rows of an episode.

    A name is an episode, a split that the source gives, or a mask of the source, looked for in this order;
    `mask:NAME` is always a mask. With a list or rows, a fraction is taken from what `train` has.
    """

    train: SplitShare = Field(0.8, description="fraction, number of episodes, names or rows")
    validation: SplitShare = Field(0.1, description="fraction, number of episodes, names or rows")
    test: SplitShare = Field(0.1, description="fraction, number of episodes, names or rows")
    episodes: list[str] = Field(
        [], exclude_if=unset, description="names of the only episodes that are used, such as a mask; default: all"
    )
    by: Literal["episode", "window"] = Field(
        "episode",
        description="policies: what is divided. Windows of one episode in two splits test memory, not generalization: "
        "`window` is for comparison with results of such splits",
    )

    @property
    def shares(self) -> dict[str, float | int | list[str] | RowRange]:
        """The share of each split, by its name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @model_validator(mode="after")
    def _fractions_fit(self) -> Self:
        shares = (self.train, self.validation, self.test)
        if self.by == "window" and any(isinstance(share, list | RowRange) for share in shares):
            raise ValueError("by: window divides by fractions or numbers of windows, not by names or rows of episodes")
        if any(isinstance(s, RowRange) for s in shares) and not isinstance(self.train, list | RowRange):
            raise ValueError("with rows for a split, `train` needs rows or names as well")
        fractions = [share for share in (self.train, self.validation, self.test) if isinstance(share, float)]
        # With a list or a number, `train` gets the rest and its own fraction does not count.
        used = fractions if len(fractions) == 3 else fractions[isinstance(self.train, float) :]
        if sum(used) > 1 + 1e-9:
            raise ValueError(f"the fractions {' + '.join(map(str, used))} are more than 1")
        return self


class DataConfig(Section):
    """The data of an experiment."""

    source: Literal["double_pendulum", "inverted_pendulum"] | None = Field(
        None, description="environment to simulate when no path is given"
    )
    path: str | Annotated[list[str], Field(min_length=1)] | None = Field(
        None,
        description="files (HDF5, npz, mat, csv, Parquet), LeRobot folders or folders of files, or one directory of "
        "converted shards",
    )
    simulate: SimulateConfig = Field(SimulateConfig(), description="amount of simulated data")
    layout: Layout = Field("auto", description="file layout; auto detects it and says what it found")
    map: dict[FeatureName, ArrayKey | Annotated[list[ArrayKey], Field(min_length=1)] | FeatureMap] = Field(
        {}, description="feature: data set or columns of a table, for files of no known layout"
    )
    features: list[str] = Field(
        [],
        exclude_if=unset,
        description="features to keep beside the controls, by name or pattern, as object or robot0_*; default: all",
    )
    episode_column: ArrayKey | None = Field(
        None,
        exclude_if=unset,
        description="column whose value divides the rows into episodes; tables: default `episode`, `trial`, ..",
    )
    time_axis: TimeAxis | None = Field(
        None, exclude_if=unset, description="axis along which time runs in mapped arrays; default: first"
    )
    roles: dict[str, Literal["state", "control", "action", "output", "auxiliary"]] = Field(
        {}, description="feature: role, where the layout's own is not wanted (action is an alias of control)"
    )
    angles: list[str] = Field([], description="entries that wrap at +-pi, as feature or feature[index]")
    dt: float | None = Field(None, gt=0, description="seconds between two points; read from the file where it says")
    starts: list[Annotated[int, Field(ge=0, le=10_000_000)]] | None = Field(
        None, min_length=1, description="policies: points of an episode at which windows may begin; default: all"
    )
    decimate: int = Field(1, ge=1, le=1_000_000, description="keep every n-th point of each episode")
    split: SplitConfig = Field(SplitConfig(), description="train, validation and test")
    validation: dict[Name, str] = Field({}, description="name: path of further validation sets")
    drop_bad_episodes: bool = Field(
        False,
        description="leave out episodes that cannot be used (incomplete, empty, of unequal rows, unreadable, with "
        "NaN or infinity) and count them by reason",
    )
    cut_at_jumps: bool = Field(
        False,
        exclude_if=unset,
        description="cut episodes where the state changes far more than anywhere else, and count the cuts",
    )
    follow_links: bool = Field(False, description="follow external links of HDF5 files")

    @property
    def entries(self) -> dict[str, FeatureMap]:
        """The map with every entry written out."""
        return {
            name: entry if isinstance(entry, FeatureMap) else FeatureMap(key=entry) for name, entry in self.map.items()
        }

    @field_validator("starts")
    @classmethod
    def _starts_ascend(cls, starts: list[int] | None) -> list[int] | None:
        if starts is not None and starts != sorted(set(starts)):
            raise ValueError("points in ascending order, each once")
        return starts

    @model_validator(mode="after")
    def _has_origin(self) -> Self:
        if self.source is None and self.path is None:
            raise ValueError("give `source` (an environment to simulate) or `path` (files or shards)")
        if self.source == "inverted_pendulum" and not self.simulate.passive:
            raise ValueError(
                "simulate.passive: false is for double_pendulum; inverted_pendulum is driven by its expert"
            )
        return self
