"""The one exception that means "the input is wrong, not the program".

Everything the library refuses on purpose raises :class:`InputError`, whose message is complete: which argument or file,
the value found, the values allowed, the nearest fix. The command line prints it without a traceback; any other exception
is a defect of ours and keeps its traceback. It is a ``ValueError``, so code written for ``tf_slim.nets`` catches it.
"""


class InputError(ValueError):
    """An argument, a file or a value that the caller has to change."""


def counted(number: int, thing: str) -> str:
    """How many there are, for messages.

    >>> counted(1, "image"), counted(2000, "bad line")
    ('1 image', '2,000 bad lines')
    """
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
