"""Where experiment files are found by name: here, in ./search_spaces, or among those that come with the package."""

from difflib import get_close_matches
from pathlib import Path

from ensemble.errors import UsageError


def shipped() -> Path:
    """Return the folder of the shipped experiment files.

    An installed wheel holds them as `ensemble/search_spaces`; in a clone they lie beside the package.
    """
    package = Path(__file__).resolve().parents[1]
    inside = package / "search_spaces"
    return inside if inside.is_dir() else package.parent / "search_spaces"


def find_space(name: str) -> Path:
    """Return the experiment file of this name or path; `.yaml` may be left out.

    Looked for in ./, ./search_spaces/ and the shipped files, in this order. UsageError names the nearest ones.
    """
    given = Path(name)
    folders = [Path(), Path("search_spaces"), shipped()]
    bare = given.name not in ("", "..") and given.suffix not in (".yaml", ".yml")
    spellings = [given.with_name(given.name + ".yaml"), given] if bare else [given]
    for folder in folders:
        for spelling in spellings:
            if (folder / spelling).is_file():
                return folder / spelling
    known = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    near = get_close_matches(given.stem, list(known), 3, 0.5)
    looked = ", ".join(str(folder.resolve()) for folder in dict.fromkeys(folders) if not given.is_absolute())
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(sorted(known)) or 'none'}"
    raise UsageError(f"no experiment file {name!r}{hint}" + (f" (looked in {looked})" if looked else ""))
