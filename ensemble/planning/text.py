"""The plan as text: space, members, models and time. Formatting only."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from math import isinf

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ensemble.config import Experiment
from ensemble.planning.capacity import trials_on
from ensemble.planning.cost import trial_bytes
from ensemble.planning.estimate import Case, Survey, TimeEstimate, describe_model, estimate_time
from ensemble.planning.gpu import Card, gpu_needs
from ensemble.planning.speed import Speed, Timing
from ensemble.search.describe_space import describe_distributions, describe_size
from ensemble.search.rungs import kept_share
from ensemble.study.checks import search_notes
from ensemble.text import byte_size, plural, rough_duration

_RULES = 4  # broken rules in the list
_GPU_CAVEAT = "Bytes are computed, not measured on a GPU."


def plan_text(survey: Survey, speed: Speed, width: int = 110) -> str:
    """Return the whole plan as plain text."""
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(plan_view(survey, speed))
    return capture.get()


def plan_view(survey: Survey, speed: Speed, timings: Sequence[Timing] = (), card: Card | None = None) -> RenderableType:
    """Return the plan for a rich console; with a card also what of it fits there."""
    # Space, members and models
    parts: list[RenderableType] = []
    if survey.file.searched:
        parts += [_space(survey), *map(Text, _infeasible(survey)), Text()]
    parts += [_facts(survey, speed), _models(survey, speed)]

    # Cluster, a GPU that is not here, and calibration
    if not survey.capacity.local:
        parts += [_nodes(survey)]
    if card is not None:
        parts += [_card(survey, card), Text(f"memory alone: fewer trials fill its arithmetic. {_GPU_CAVEAT}")]
    if timings:
        parts += [_calibration(timings)]

    # Warnings last, next to the prompt
    parts += [Text(f"note: {note}") for note in search_notes(survey.file)]
    if survey.too_large:
        parts += [Text(f"does not fit: {survey.too_large}")]
    return Group(*parts)


def _grid(*headers: str, title: str | None = None) -> Table:
    table = Table(*headers, title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.title_style = "bold"
    return table


def _space(survey: Survey) -> Table:
    title = f"{survey.file.first.experiment}: {describe_size(survey.file)}"
    table = _grid("searched", "values", title=title)
    # Text and not str: rich would take `[sgd]` in a name for markup.
    for name, values in describe_distributions(survey.file):
        table.add_row(Text(name), Text(values))
    return table


def _infeasible(survey: Survey) -> Iterator[str]:
    sample = survey.sample
    constraints = survey.file.first.search.constraints
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


def _facts(survey: Survey, speed: Speed) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in [*_members(survey), *_resources(survey), *_time(survey, estimate_time(survey, speed), speed)]:
        table.add_row(Text(name), Text(value))
    return table


def _members(survey: Survey) -> Iterator[tuple[str, str]]:
    search = survey.file.first.search
    if not survey.file.searched:
        yield "ensemble", f"one configuration x {plural(survey.seeds, 'seed')} = {plural(survey.seeds, 'member')}"
        return
    race = f", racing from {plural(search.race_start, 'seed')} on" if search.race else ""
    trials, seeds = plural(survey.trials, "trial"), plural(survey.seeds, "seed")
    members = plural(survey.trials * survey.seeds, "member")
    yield (
        "search",
        f"{trials} x {seeds} = {members}{race}, sampler {search.sampler}, pruner {search.pruner}, by {search.metric}",
    )
    count, fresh = survey.finalists
    again = f"{count} x {plural(fresh, 'fresh seed')} = {plural(count * fresh, 'member')}"
    yield "finalists", again if count else "none"


def _resources(survey: Survey) -> Iterator[tuple[str, str]]:
    capacity, first = survey.capacity, survey.file.first
    yield "data", survey.data.description + (f", {byte_size(survey.data.bytes)} in memory" if survey.data.bytes else "")
    memory = "GPU memory unknown from here" if isinf(survey.available) else f"{byte_size(survey.available)} each"
    parts = plural(capacity.slots, "trial" if survey.file.searched else "pack")
    at_once = f"{parts} at a time of {capacity.request.describe()}, {memory}"
    yield "device", f"{capacity.device}, {plural(first.resources.threads, 'thread')} a process, {at_once}"


def _time(survey: Survey, time: TimeEstimate, speed: Speed) -> Iterator[tuple[str, str]]:
    members = survey.trials * survey.seeds if survey.file.searched else survey.seeds
    count, seeds = survey.finalists
    share = kept_share(survey.file) if survey.file.searched else None
    flops = survey.member_flops * (members * (1.0 if share is None else share) + count * seeds)
    yield "FLOPs", f"{_flops(flops)} in all, {_flops(survey.member_flops)} a member that trains to its end"
    yield "time", _describe_time(time, share, survey.file.first)
    yield "", f"{speed.origin}; ready about {_clock(time.total)} if it starts now"


def _describe_time(time: TimeEstimate, share: float | None, first: Experiment) -> str:
    last = f" + {rough_duration(time.finalists)} for the finalists" if time.finalists else ""
    if time.expected is None or share is None or share == 1.0:
        # These pruners stop an unknown share, so the time without any stop is an upper bound.
        limit = "at most " if share is None and first.search.pruner in ("median", "wilcoxon") else "about "
        return f"{limit}{rough_duration(time.search)}{last}"
    stopped = f"{rough_duration(time.expected)} if {first.search.pruner} leaves {share:.0%} of the steps"
    return f"about {stopped}{last}; at most {rough_duration(time.search + time.finalists)} with nothing stopped"


def _models(survey: Survey, speed: Speed) -> Table:
    of = "all" if survey.sample.whole else "drawn"
    # Equal models (a search of learning rates alone) need one column.
    differ = len({(case.cost.parameters, case.cost.flops) for case in survey.cases}) > 1
    typical_cases = survey.typical_cases if differ else survey.typical_cases[:1]
    names = ("smallest", "median", "largest") if differ else ("every model",)
    table = _grid("", *names, title=f"models ({len(survey.cases)} configurations, {of})" if differ else None)
    rows: dict[str, Callable[[Case], str]] = {
        "model": lambda case: describe_model(case.experiment),
        "parameters": lambda case: f"{case.cost.parameters:,}",
        "batch": lambda case: f"{case.experiment.train.batch_size}",
        "FLOPs of a step": lambda case: _flops(case.cost.flops),
        "trial, packs of 1": lambda case: byte_size(trial_bytes(case.cost, survey.members_per_trial, 1)),
        f"trial, a pack of {survey.members_per_trial}": lambda case: byte_size(
            trial_bytes(case.cost, survey.members_per_trial, survey.members_per_trial)
        ),
        "pack that fits": lambda case: _describe_pack(survey, case),
        f"on a GPU, a pack of {survey.seeds}": lambda case: byte_size(gpu_needs(survey, case)[-1].bytes),
        "time of a step": lambda case: _describe_step(speed, case),
        "time of a member": lambda case: rough_duration(speed.member(case.experiment, case.cost)),
    }
    for name, cell in rows.items():
        table.add_row(name, *(Text(cell(case)) for case in typical_cases))
    return table


def _card(survey: Survey, card: Card) -> Table:
    """Lay out how many trials one GPU of this kind holds, in packs of one and in the largest that fit."""
    differ = len({(case.cost.parameters, case.cost.flops) for case in survey.cases}) > 1
    cases = survey.typical_cases if differ else survey.typical_cases[:1]
    needs = [gpu_needs(survey, case, card) for case in cases]
    names = ("smallest", "median", "largest") if differ else ("every model",)
    table = _grid("", *names, title=f"one {card.name} of {byte_size(card.memory)}, by memory")
    columns = [(each[0], each[-1]) for each in needs]
    for name, chosen in (("packs of 1", 0), ("largest pack", 1)):
        if chosen and all(alone == packed for alone, packed in columns):
            continue
        column = [pair[chosen] for pair in columns]
        table.add_row(name, *(Text(f"{each.pack} of {survey.seeds}" if each.pack else "too large") for each in column))
        table.add_row("  a trial needs", *(Text(byte_size(each.bytes)) for each in column))
        table.add_row("  trials at a time", *(Text(str(each.trials)) for each in column))
        shares = [f"{each.share:g}" if each.trials else "-" for each in column]
        table.add_row("  gpus_per_worker", *map(Text, shares))
    return table


def _describe_pack(survey: Survey, case: Case) -> str:
    if isinf(survey.available):
        return "unknown"
    size = survey.pack(case)
    return f"{size} of {survey.members_per_trial}" if size else "none: too large"


def _describe_step(speed: Speed, case: Case) -> str:
    seconds = speed.step(speed.machine.step(case.cost))
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _nodes(survey: Survey) -> Table:
    table = _grid("node", "CPUs", "GPUs", "memory", "trials at a time", "pack of the largest", title="nodes")
    capacity, largest = survey.capacity, survey.cases[-1]
    for node in capacity.nodes:
        count = trials_on(capacity.request, node)
        pack = _describe_pack(survey, largest) if count else "-"
        row = (node.name, f"{node.cpus:g}", f"{node.gpus:g}", byte_size(node.memory), str(count), pack)
        table.add_row(*map(Text, row))
    return table


def _calibration(timings: Sequence[Timing]) -> Table:
    table = _grid("measured", "pack", "batch", "steps", "a member's step", "a validation", title="calibration")
    for each in timings:
        model, batch = describe_model(each.experiment), f"{each.experiment.train.batch_size}"
        step, validation = f"{1000 * each.step:.3g} ms", f"{each.validation:.2g} s"
        row = (model, f"{each.pack}", batch, f"{each.steps}", step, validation)
        table.add_row(*map(Text, row))
    return table


def _flops(count: float) -> str:
    for exponent, name in ((18, "EFLOP"), (15, "PFLOP"), (12, "TFLOP"), (9, "GFLOP")):
        if count >= 10**exponent:
            return f"{count / 10**exponent:.3g} {name}"
    return f"{count / 1e6:.3g} MFLOP"


def _clock(seconds: float) -> str:
    """Return the time of day after `seconds`, with the date unless it is today's."""
    now = datetime.now().astimezone()
    # Bounded to about eleven years: a huge space would exceed the largest date.
    end = now + timedelta(hours=min(seconds / 3600, 1e5))
    return f"{end:%H:%M}" if end.date() == now.date() else f"{end:%d %b %Y %H:%M}"
