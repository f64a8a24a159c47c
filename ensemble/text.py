"""What several floors say alike to the user: a count with its noun, a command to copy."""

import shlex


def plural(count: float, noun: str, form: str = "") -> str:
    """Count things: `1 figure`, `2 figures`; `form` is the number's, as in `,` for `1,000 figures`."""
    return f"{count:{form}} {noun}{'' if count == 1 else 's'}"


def command(*words: object) -> str:
    """Return a command line that a shell takes as these words, whatever is in them: `ensemble report 'a b'`."""
    return shlex.join(map(str, words))
