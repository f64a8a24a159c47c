"""Text on a terminal that cannot show all of it: signs are replaced by others, never by a UnicodeEncodeError."""

import codecs
import unicodedata

_NAME = "ensemble.plain"
_PLAIN = {
    **{"±": "+-", "×": "x", "·": ".", "…": "..", "–": "-", "—": "-", "−": "-", "≤": "<=", "≥": ">=", "≈": "~"},
    **{"→": "->", "←": "<-", "↓": "v", "↑": "^", "µ": "u", "μ": "u", "⚠": "!", "✓": "ok", "•": "*", "∞": "inf"},
    **{"“": '"', "”": '"', "‘": "'", "’": "'"},
}


def replace_unprintable() -> str:
    """Return the name of an error handler for encoding, as in `open(.., errors=..)`."""
    codecs.register_error(_NAME, _replace)
    return _NAME


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(map(_plain, text)), error.end


def _plain(sign: str) -> str:
    """Return ASCII for one sign: a table's, the line of a box, the letter without its accent, or a question mark."""
    if sign in _PLAIN:
        return _PLAIN[sign]
    if "\u2500" <= sign <= "\u257f":  # lines of tables and bars
        return "|" if sign in "│┃║" else "-"
    letters = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return letters or "?"
