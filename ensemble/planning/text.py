"""The plan as text: the space, the members, the models, the hours, and what to do next. Nothing is computed here."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from math import isinf

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ensemble.config import Experiment
from ensemble.planning.capacity import held
from ensemble.planning.cost import trial_bytes
from ensemble.planning.estimate import Case, Hours, Survey, hours, model_words
from ensemble.planning.speed import Speed, Timing
from ensemble.search.describe_space import describe_distributions, describe_size
from ensemble.search.rungs import kept_share
from ensemble.study.checks import search_notes
from ensemble.text import byte_size, plural, rough_duration

_RULES = 4  # broken rules that are listed


def plan_text(found: Survey, speed: Speed, width: int = 110) -> str:
    """Return the whole plan as plain text."""
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(plan_view(found, speed))
    return capture.get()


def plan_view(found: Survey, speed: Speed, timings: Sequence[Timing] = ()) -> RenderableType:
    """Return the plan for a rich console."""
    parts: list[RenderableType] = []
    if found.file.searched:
        parts += [_space(found), *map(Text, _infeasible(found)), Text()]
    parts += [_facts(found, speed), _models(found, speed)]
    if not found.capacity.here:
        parts += [_nodes(found)]
    if timings:
        parts += [_calibration(timings)]
    parts += [Text(f"note: {note}") for note in search_notes(found.file)]
    if found.too_large:
        parts += [Text(f"does not fit: {found.too_large}")]
    return Group(*parts)


def _grid(*headers: str, title: str | None = None) -> Table:
    table = Table(*headers, title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.title_style = "bold"
    return table


def _space(found: Survey) -> Table:
    title = f"{found.file.first.experiment}: {describe_size(found.file)}"
    table = _grid("searched", "values", title=title)
    for name, words in describe_distributions(found.file):
        table.add_row(Text(name), Text(words))
    return table


def _infeasible(found: Survey) -> Iterator[str]:
    sample = found.sample
    constraints = found.file.first.search.constraints
    if constraints:
        yield f"what must hold: {'; '.join(constraints)}"
    of = f"all {sample.looked_at:,}" if sample.whole else f"{sample.looked_at:,} drawn"
    if not sample.infeasible:
        yield f"impossible: none of {of}"
        return
    shares = [f"{rule} ({count / sample.looked_at:.0%})" for rule, count in list(sample.rules.items())[:_RULES]]
    more = f" and {len(sample.rules) - _RULES} more" if len(sample.rules) > _RULES else ""
    yield f"impossible: {sample.infeasible / sample.looked_at:.0%} of {of}, for {'; '.join(shares)}{more}"
    yield f"the first: {sample.first_infeasible}"


def _facts(found: Survey, speed: Speed) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, words in [*_members(found), *_where(found), *_time(found, hours(found, speed), speed)]:
        table.add_row(Text(name), Text(words))
    return table


def _members(found: Survey) -> Iterator[tuple[str, str]]:
    search = found.file.first.search
    if not found.file.searched:
        yield "ensemble", f"one configuration x {plural(found.seeds, 'seed')} = {plural(found.seeds, 'member')}"
        return
    race = f", racing from {plural(search.race_start, 'seed')} on" if search.race else ""
    trials, seeds = plural(found.trials, "trial"), plural(found.seeds, "seed")
    members = plural(found.trials * found.seeds, "member")
    yield (
        "search",
        f"{trials} x {seeds} = {members}{race}, sampler {search.sampler}, pruner {search.pruner}, by {search.metric}",
    )
    count, fresh = found.finalists
    again = f"{count} x {plural(fresh, 'fresh seed')} = {plural(count * fresh, 'member')}"
    yield "finalists", again if count else "none"


def _where(found: Survey) -> Iterator[tuple[str, str]]:
    capacity, first = found.capacity, found.file.first
    yield "data", found.data.words + (f", {byte_size(found.data.bytes)} in memory" if found.data.bytes else "")
    memory = "GPU memory unknown from here" if isinf(found.available) else f"{byte_size(found.available)} each"
    at_once = f"{capacity.slots} trial(s) at a time of {capacity.request.describe()}, {memory}"
    yield "device", f"{capacity.device}, {first.resources.threads} thread(s) a process, {at_once}"


def _time(found: Survey, time: Hours, speed: Speed) -> Iterator[tuple[str, str]]:
    members = found.trials * found.seeds if found.file.searched else found.seeds
    count, seeds = found.finalists
    share = kept_share(found.file) if found.file.searched else None
    flops = found.member_flops * (members * (1.0 if share is None else share) + count * seeds)
    yield "FLOPs", f"{_flops(flops)} in all, {_flops(found.member_flops)} a member that trains to its end"
    yield "time", _time_words(time, share, found.file.first)
    yield "", f"{speed.words}; ready about {_clock(time.total)} if it starts now"


def _time_words(time: Hours, share: float | None, first: Experiment) -> str:
    last = f" + {rough_duration(3600 * time.finalists)} for the finalists" if time.finalists else ""
    if time.expected is None or share is None or share == 1.0:
        limit = "at most " if share is None and first.search.pruner in ("median", "wilcoxon") else "about "
        return f"{limit}{rough_duration(3600 * time.search)}{last}"
    stopped = f"{rough_duration(3600 * time.expected)} if {first.search.pruner} leaves {share:.0%} of the steps"
    return (
        f"about {stopped}{last}; at most {rough_duration(3600 * (time.search + time.finalists))} with nothing stopped"
    )


def _models(found: Survey, speed: Speed) -> Table:
    of = "all" if found.sample.whole else "drawn"
    differ = len({(case.cost.parameters, case.cost.flops) for case in found.cases}) > 1
    marks = found.marks if differ else found.marks[:1]
    names = ("smallest", "median", "largest") if differ else ("every model",)
    table = _grid("", *names, title=f"models ({len(found.cases)} configurations, {of})" if differ else None)
    rows: dict[str, Callable[[Case], str]] = {
        "model": lambda case: model_words(case.experiment),
        "parameters": lambda case: f"{case.cost.parameters:,}",
        "batch": lambda case: f"{case.experiment.train.batch_size}",
        "FLOPs of a step": lambda case: _flops(case.cost.flops),
        "trial, packs of 1": lambda case: byte_size(trial_bytes(case.cost, found.together, 1)),
        f"trial, a pack of {found.together}": lambda case: byte_size(
            trial_bytes(case.cost, found.together, found.together)
        ),
        "pack that fits": lambda case: _pack_words(found, case),
        "time of a step": lambda case: _step_words(speed, case),
        "time of a member": lambda case: rough_duration(speed.member(case.experiment, case.cost)),
    }
    for name, cell in rows.items():
        table.add_row(name, *(Text(cell(case)) for case in marks))
    return table


def _pack_words(found: Survey, case: Case) -> str:
    if isinf(found.available):
        return "unknown"
    size = found.pack(case)
    return f"{size} of {found.together}" if size else "none: too large"


def _step_words(speed: Speed, case: Case) -> str:
    seconds = speed.step(speed.machine.step(case.cost))
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _nodes(found: Survey) -> Table:
    table = _grid("node", "CPUs", "GPUs", "memory", "trials at a time", "pack of the largest", title="nodes")
    capacity, largest = found.capacity, found.cases[-1]
    for node in capacity.nodes:
        count = held(capacity.request, node)
        pack = _pack_words(found, largest) if count else "-"
        row = (node.name, f"{node.cpus:g}", f"{node.gpus:g}", byte_size(node.memory), str(count), pack)
        table.add_row(*map(Text, row))
    return table


def _calibration(timings: Sequence[Timing]) -> Table:
    table = _grid("measured", "pack", "batch", "steps", "a member's step", "a validation", title="calibration")
    for each in timings:
        batch, step = f"{each.experiment.train.batch_size}", f"{1000 * each.step:.3g} ms"
        row = (model_words(each.experiment), f"{each.pack}", batch, f"{each.steps}", step, f"{each.validation:.2g} s")
        table.add_row(*map(Text, row))
    return table


def _flops(count: float) -> str:
    for exponent, name in ((18, "EFLOP"), (15, "PFLOP"), (12, "TFLOP"), (9, "GFLOP")):
        if count >= 10**exponent:
            return f"{count / 10**exponent:.3g} {name}"
    return f"{count / 1e6:.3g} MFLOP"


def _clock(hours: float) -> str:
    now = datetime.now().astimezone()
    end = now + timedelta(hours=min(hours, 1e5))
    return f"{end:%H:%M}" if end.date() == now.date() else f"{end:%d %b %Y %H:%M}"
