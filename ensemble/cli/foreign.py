"""`ensemble import` and `ensemble export`: policies from and to the files of tiny pi0's authors."""

from pathlib import Path
from typing import Literal

import click

from ensemble.cli.options import FILE, FOLDER, results_option, say
from ensemble.text import command, plural


@click.command(name="import")
@click.argument("files", nargs=-1, required=True, metavar="FILE.pth [FILE.pth ..]", type=FILE)
@click.option("--family", required=True, type=click.Choice(["pi0", "pi0_fast"]), help="What the files are weights of.")
@click.option("--name", required=True, help="Of the experiment: the run directory is RESULTS/NAME.")
@click.option("--tokenizer", type=FILE, metavar="JSON", help="fast_tokenizer.json, of pi0_fast.")
@click.option("--heads", type=click.IntRange(1, 10_000), default=4, show_default=True, help="Attention heads.")
@click.option(
    "--chunk", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Actions of a chunk, of pi0_fast."
)
@click.option(
    "--scale", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True, help="Of the tokenizer."
)
@results_option()
@click.option("--overwrite", is_flag=True, help="Replace an earlier run of this name.")
def import_(
    files: tuple[Path, ...],
    family: Literal["pi0", "pi0_fast"],
    name: str,
    tokenizer: Path | None,
    heads: int,
    chunk: int,
    scale: float,
    results: Path,
    overwrite: bool,
) -> None:
    """Make a run directory of policies that were trained with tiny pi0's own code (FAST_Flow_Matching).

    Each file is a member, its seed the index in the list. State dicts are read, nothing else; sizes come from their
    shapes, and heads, chunk and scale, which no shape has, from the options.

    \b
    ensemble import trained_models/tinypi0_*.pth --family pi0 --name tinypi0
    ensemble import trained_models/tinypi0fast_*.pth --family pi0_fast \\
        --tokenizer fast_tokenizer.json --name tinyfast
    """
    from ensemble.study.prepare import short_path
    from ensemble.tinypi0.import_run import Request, import_policies

    run = short_path(import_policies(Request(files, family, name, results, tokenizer, heads, chunk, scale, overwrite)))
    say(f"{run}: {plural(len(files), 'member')} of {family}, imported as they are; nothing was measured")
    say(f"next: {command('ensemble', 'evaluate', run)}")


@click.command()
@click.argument("path", metavar="DIR", type=FOLDER)
@click.option("--layout", required=True, type=click.Choice(["tinypi0"]), help="Whose files.")
@click.option("--out", required=True, type=FOLDER, help="Folder that gets logs/, trained_models/ and loss_pics/.")
@click.option("--config", metavar="HASH", help="Which configuration of the run; by default the best.")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
def export(path: Path, layout: str, out: Path, config: str | None, overwrite: bool) -> None:
    """Write a run's policies (DIR, or one member's DIR/members/<id>) as the files of tiny pi0's authors.

    \b
    ensemble export results/pi0_ensemble --layout tinypi0 --out train
    """
    del layout  # there is one
    from ensemble.tinypi0.export_run import export_tiny

    files = export_tiny(path, out, config, overwrite)
    weights = [file for file in files if file.suffix == ".pth"]
    logs = sum(file.suffix == ".txt" for file in files)
    # Imported weights have no curves.
    extra = f"{plural(logs, 'log')} with a picture each" if logs else "no logs and pictures, since there are no curves"
    say(f"{out}: {plural(len(weights), 'state dict')}, {extra}")
    theirs = "train/ of FAST_Flow_Matching, whose evaluation takes every file of trained_models/"
    say(f"next: copy {command(out)} to {theirs}")
