"""What several floors say alike to the user: a command to copy."""

import shlex


def command(*words: object) -> str:
    """Return a command line that a shell takes as these words, whatever is in them: `ensemble report 'a b'`."""
    return shlex.join(map(str, words))
