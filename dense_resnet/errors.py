"""The one exception that means "the input is wrong, not the program".

Everything the library refuses on purpose raises :class:`InputError`, whose message is complete: which argument or file,
the value found, the values allowed, the nearest fix. The command line prints it without a traceback; any other exception
is a defect of ours and keeps its traceback. It is a ``ValueError``, so code written for ``tf_slim.nets`` catches it.
"""


class InputError(ValueError):
    """An argument, a file or a value that the caller has to change."""
