"""What the pages of the repository say, as data: code blocks, commands, links, tables; and the parts that are made.

A page is a Markdown file. A part between `<!-- made: NAME -->` and `<!-- end -->` comes from MADE[NAME]; everything
else is written by hand. `test_docs.py` compares; run as a script, it makes the parts anew.
"""

import ast
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise, takewhile
from pathlib import Path

import click
from test_architecture import DOORS, FLOORS

from ensemble.config import render_schema_text

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(DOCS.glob("*.md")),
    ROOT / "cluster" / "README.md",
    ROOT / "results" / "README.md",
    ROOT / "results" / "LOG.md",
]

# What a floor is for, in a few words; the names on it come from the architecture test.
PURPOSE = {
    9: "commands: options, messages, exit codes",
    8: "what a file amounts to before it runs; files of another program",
    7: "a run from beginning to end, on Ray; policies in their environment",
    6: "packs, arena, optimizer, loop, checkpoints, rows",
    5: "rollout errors and baselines",
    4: "environments that make data",
    3: "HDF5 to windows; networks; Parquet to reports; Optuna",
    2: "paths of a run, the log of a search, FAST tokenizers",
    1: "experiment files, checked; files written whole or not at all",
    0: "names, errors, random streams, texts: the words of all floors",
}


def blocks(text: str, language: str) -> list[str]:
    """Return the contents of the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """Return a page without its fenced blocks and without inline code."""
    return re.sub(r"`[^`\n]+`", "``", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL))


# Commands


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in the ```bash blocks, without comments; parts of pipes and lists are apart."""
    for block in blocks(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if set(word) <= set("|&;"):
                    if words:
                        yield words
                    words = []
                else:
                    words.append(word)


def ensemble_arguments(words: list[str]) -> list[str] | None:
    """Return what follows `ensemble` or `python -m ensemble`, also behind `ray job submit --`; None for others."""
    settings = sum(1 for _ in takewhile(lambda word: re.match(r"\w+=", word), words))  # NAME=value before a program
    words = words[settings:]
    if words[:1] == ["ray"] and "--" in words:
        words = words[words.index("--") + 1 :]
    if [Path(word).name for word in words[:3]] == ["python", "-m", "ensemble"]:
        return words[3:]
    return words[1:] if words and Path(words[0]).name == "ensemble" else None


def wrong_names(main: click.Command, arguments: list[str]) -> list[str]:
    """Return the commands and options among the arguments that the command line doesn't know."""
    command, rest = main, list(arguments)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(click.Context(command), rest[0])
        if found is None:
            return [rest[0]]
        command, rest = found, rest[1:]
    context = click.Context(command, help_option_names=["--help", "-h"])  # as the program sets them
    known = {name for parameter in command.get_params(context) for name in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.split("=")[0] for word in rest if re.match(r"--?[a-zA-Z]", word)]
    return [name for name in given if name not in known]


def missing_modules(words: list[str], root: Path) -> list[str]:
    """Return the module that `python -m benchmarks.x` names where there is none; other programs are not ours."""
    named = [after for word, after in pairwise(words) if word == "-m"]
    ours = [name for name in named if name.split(".")[0] in ("benchmarks", "ensemble")]
    places = {name: root / name.replace(".", "/") for name in ours}
    return [
        name for name, at in places.items() if not ((at / "__main__.py").is_file() or at.with_suffix(".py").is_file())
    ]


def make_targets(makefile: str) -> set[str]:
    """Return the targets of a Makefile."""
    return set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def unknown_make_targets(words: list[str], targets: set[str]) -> list[str]:
    """Return the goals of a `make` command that are no targets."""
    folder = {place + 1 for place, word in enumerate(words) if word == "-C"}
    goals = [word for place, word in enumerate(words) if place and place not in folder]
    return [word for word in goals if "=" not in word and not word.startswith("-") and word not in targets]


def missing_paths(text: str, root: Path) -> list[str]:
    """Return the files, folders and modules that inline code names and that are not there.

    `tests/models/` and `ensemble/store.py` begin at the root, `training/finish` and `models/layers.py` in the package;
    `python -m benchmarks` names a module. What begins elsewhere, as `results/quickstart`, is the reader's own.
    """
    wrong = []
    for code in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)):
        wrong += missing_modules(code.split(), root)
        if re.fullmatch(r"[\w./-]+/[\w./-]*", code):
            first = code.split("/")[0]
            inside = (root / "ensemble" / first).is_dir() and not (root / first).is_dir()
            path = root / "ensemble" / code if inside else root / code
            ours = inside or first in ("ensemble", "tests", "search_spaces", "cluster", "benchmarks", "docs")
            wrong += [] if not ours or path.exists() or path.with_suffix(".py").is_file() else [code]
    return wrong


# Links, anchors, tables, figures


def anchors(text: str) -> set[str]:
    """Return what a link to a heading of this page may say after #, as GitHub names headings."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        names.add(f"{slug}-{found[slug]}" if slug in found else slug)
        found[slug] = found.get(slug, 0) + 1
    return names


def broken_links(page: Path, text: str) -> list[str]:
    """Return the relative links and pictures of a page that lead to no file, or to no heading of it."""
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        there = target.exists()
        if there and anchor and target.suffix == ".md":
            there = anchor in anchors(text if target == page else target.read_text())
        wrong += [] if there else [link]
    return wrong


def hidden_words(text: str) -> list[str]:
    """Return words in angle brackets outside of code: a browser takes them for tags and shows nothing."""
    return re.findall(r"<\w[^>\n]*>", prose(text))


def ragged_rows(text: str) -> list[str]:
    """Return the rows of tables that have more or fewer cells than the header."""
    wrong = []
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n)+", outside, re.MULTILINE):
        rows = table.splitlines()
        cells = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
        wrong += [row for row, count in zip(rows, cells, strict=True) if count != cells[0]]
        wrong += [] if len(rows) > 1 and re.fullmatch(r"[|:\- ]+", rows[1]) else [rows[0]]
    return wrong


def quoted_means(text: str) -> set[str]:
    """Return every `mean ± std` of a page, outside of fenced blocks, without leading zeros."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"(\d*\.?\d+) ± (\d*\.?\d+)", outside)
    return {" ± ".join(number.lstrip("0") for number in pair) for pair in found}


# Parts that are made


def folder_map(text: str) -> set[str]:
    """Return the folders of the package that README's map names: `ensemble/` on a line, then one a line below."""
    (listed,) = (block for block in blocks(text, "text") if block.startswith("ensemble/"))
    return {name for line in listed.splitlines() for name in re.findall(r"^  (\w+(?:/\w+)*)/ ", line)}


def package_folders(root: Path) -> set[str]:
    """Return the folders of the package, by their paths inside it."""
    return {str(path.parent.relative_to(root / "ensemble")) for path in (root / "ensemble").glob("*/__init__.py")}


def modules_of(root: Path) -> str:
    """Write a heading for each folder of the package and a line for each module, from their docstrings."""
    files = sorted((root / "ensemble").rglob("*.py"), key=lambda path: (path.parent, path))
    parts = []
    for folder, inside in groupby(files, key=lambda path: path.parent):
        modules = {path: first_line(path) for path in inside}
        head = modules.pop(folder / "__init__.py", "")
        name = folder.relative_to(root)
        lines = [f"- [`{path.name}`](../{path.relative_to(root)}): {escaped(text)}" for path, text in modules.items()]
        parts.append("\n".join([f"### {name}/", "", *([f"{head}.", ""] if head else []), *lines]))
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Return text in which Markdown sees no tag and no cell; code is left alone."""
    return re.sub(r"(`[^`]*`)|<", lambda found: found[1] or "&lt;", text).replace("|", r"\|")


def first_line(module: Path) -> str:
    """Return the first line of a module's docstring without its full stop; a sentence is finished first."""
    paragraph = (ast.get_docstring(ast.parse(module.read_text())) or "").partition("\n\n")[0].split("\n")
    ended = next((place for place, line in enumerate(paragraph, 1) if line.endswith(".")), 1)
    return " ".join(paragraph[:ended]).rstrip(".")


def floor_plan() -> str:
    """Draw the floors of the architecture test, the highest on top."""
    lines = []
    for floor in sorted(set(FLOORS.values()), reverse=True):
        names = " ".join(name for name, at in FLOORS.items() if at == floor and not name.startswith("__"))
        lines.append(f" {floor} | {names:<40} | {PURPOSE[floor]}")
    rule = f"---+{'-' * 42}+{'-' * 68}"
    return f"```text\n{rule}\n" + f"\n{rule}\n".join(lines) + f"\n{rule}\n```\n"


def door_table() -> str:
    """Lay out which library is imported where."""
    rows = []
    for (places, _), group in groupby(DOORS.items(), key=lambda item: (item[1], None)):
        names = ", ".join(f"`{name}`" for name, _ in group)
        rows.append(f"| {names} | {', '.join(f'`{place}`' for place in places) or 'nowhere'} |")
    return "| library | imported in |\n| :-- | :-- |\n" + "\n".join(rows) + "\n"


def experiment_keys() -> str:
    """Write what `ensemble schema` prints as Markdown: a heading and a table a section, a row a key."""
    lines: list[str] = []
    for line in render_schema_text().splitlines():
        if key := re.match(r"  ([\w.<>\[\]]+) \((.+)\)$", line):
            lines += _new_section(re.match(r"model\[\w+\]|\w+", key[1])[0], lines)  # type: ignore[index]
            lines.append(f"| `{key[1]}` | {_default(key[2])} | ")
        elif section := re.match(r"([\w.\[\]]+): (.+)$", line):
            if "." in section[1]:
                lines.append(f"| **`{section[1]}`** | | {escaped(section[2])} |")
            else:
                lines += _new_section(section[1], lines, section[2])
        elif line.startswith("      "):
            lines[-1] += f"{escaped(line.strip())} |"
        elif line.startswith("  {"):
            distribution, meaning = re.split(r"\s{2,}", line.strip())
            lines.append(f"- `{distribution}`: {meaning}")
        elif line or not lines[-1].startswith(("|", "-")):
            lines.append(line)
    return "\n".join(lines) + "\n"


def _new_section(name: str, lines: Sequence[str], meaning: str = "") -> list[str]:
    """Return the head of a section's table, unless it is the one that was begun last."""
    if f"### {name}" == next((line for line in reversed(lines) if line.startswith("### ")), ""):
        return []
    said = [f"{meaning[:1].upper()}{meaning[1:]}.", ""] if meaning else []
    return ["", f"### {name}", "", *said, "| key | default | value and meaning |", "| :-- | :-- | :-- |"]


def _default(text: str) -> str:
    """Write `default 3` as code, `optional` and `required` as they are."""
    word, space, value = text.partition(" ")
    return f"`{value}`" if space else word


MADE: Mapping[str, Callable[[], str]] = {
    "floors": floor_plan,
    "doors": door_table,
    "modules": lambda: modules_of(ROOT),
    "experiment keys": experiment_keys,
}
_PART = re.compile(r"(?<=<!-- made: )([\w ]+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)


def made_parts(text: str) -> list[str]:
    """Return the names of the parts of a page that are made."""
    return [name for name, _, _ in _PART.findall(text)]


def with_parts(text: str) -> str:
    """Return a page with its parts made anew."""
    return _PART.sub(lambda found: f"{found[1]}{found[2]}\n{MADE[found[1]]()}\n", text)


# Examples that run


def examples(text: str) -> dict[str, tuple[dict[str, str], str]]:
    """Return for each section (##) with ```python blocks: the files that they are, and the script of the others.

    A block that begins with a comment `# name.py` is that file; the others are run in their order.
    """
    found = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        files, script = {}, ""
        for block in blocks(section, "python"):
            name = re.match(r"# (\w+\.py)\n", block)
            if name:
                files[name[1]] = block
            else:
                script += block
        if files or script:
            found[section.splitlines()[0]] = (files, script)
    return found
