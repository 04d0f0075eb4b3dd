"""The one exception that means "the input is wrong, not the program".

Everything the library refuses on purpose raises :class:`InputError`, whose message is complete: which argument or file,
the value found, the values allowed, the nearest fix. The command line prints it without a traceback; any other exception
is a defect of ours and keeps its traceback. It is a ``ValueError``, so code written for ``tf_slim.nets`` catches it.
"""

import unicodedata


class InputError(ValueError):
    """An argument, a file or a value that the caller has to change."""


class UnreadableError(InputError):
    """A file that the system does not give, whatever is in it: it may do so another time."""


def counted(number: int, thing: str) -> str:
    """How many there are, for messages.

    >>> counted(1, "image"), counted(2000, "bad line")
    ('1 image', '2,000 bad lines')
    """
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def spelt(text: str) -> str:
    """`text` for a terminal: letters that would steer it, as names of files and classes may hold, are spelt out.

    >>> spelt("a\\x1b[31m.png")
    'a\\\\x1b[31m.png'
    """
    return "".join(letter if letter == "\n" or _is_printed(letter) else ascii(letter)[1:-1] for letter in text)


def _is_printed(letter: str) -> bool:
    return unicodedata.category(letter) not in ("Cc", "Cs")
