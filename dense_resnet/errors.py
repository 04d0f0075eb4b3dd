"""The exception for user errors, and the format of messages: which argument or file, the value, the values allowed, the fix.

The command line prints an :class:`InputError` without a traceback; any other exception is a defect of this library.
"""

import re
from collections.abc import Iterable

MOST_SHOWN = 20  # groups of messages in one message
FEW = 3  # up to this number, similar messages are shown one by one; above, as one with this many names
VARYING = re.compile(r"'[^']*'|\d+")  # names and numbers
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # but not the end of a line
PLACE = re.compile(r".*?: line \d+|.*?(?=: )|.*", re.DOTALL)  # what a message begins with


class InputError(ValueError):
    """An argument, a file or a value that the caller has to change. Code for ``tf_slim.nets`` catches it as ``ValueError``."""


class UnreadableError(InputError):
    """The operating system could not read the file; its contents were not examined. A retry may succeed."""


def pluralize(number: int, thing: str) -> str:
    """Format a number of things for messages.

    >>> pluralize(1, "image"), pluralize(2000, "bad line"), pluralize(2, "class")
    ('1 image', '2,000 bad lines', '2 classes')
    """
    plural = "es" if thing.endswith("s") else "s"
    return f"{number:,} {thing}" + ("" if number == 1 else plural)


def group_alike(messages: Iterable[str]) -> list[str]:
    """Merge messages that differ only in names and numbers, with their count and the first names.

    >>> group_alike(f"labels/{name}.png: label value {name} is outside 0..2." for name in range(3, 10))
    ['7 alike: labels/3.png: label value 3 is outside 0..2. Also: labels/4.png, labels/5.png and 4 more.']
    """
    groups: dict[str, list[str]] = {}
    for message in messages:
        groups.setdefault(_cause(message), []).append(message)
    lines = []
    for own in groups.values():
        if len(own) <= FEW:
            lines += own
        else:
            others = ", ".join(place[0] for message in own[1:FEW] if (place := PLACE.match(message)))
            first = own[0] if own[0].endswith((".", "?")) else f"{own[0]}."
            lines.append(f"{len(own):,} alike: {first} Also: {others} and {len(own) - FEW:,} more.")
    return lines


def format_list(messages: Iterable[str]) -> str:
    """Put each message on its own line, merge similar ones, and limit their number."""
    lines = group_alike(messages)
    more = len(lines) - MOST_SHOWN
    return "".join(f"\n  {line}" for line in [*lines[:MOST_SHOWN], *([f"... and {more} more"] if more > 0 else [])])


def _cause(message: str) -> str:
    """Return a message without its beginning, names, paths and numbers."""
    words = VARYING.sub("#", message.partition(": ")[2] or message).split()
    return " ".join("#" if "/" in word or word.rstrip(".,;)").endswith((".png", ".jpg", ".jpeg")) else word for word in words)


def escape_control(text: str) -> str:
    """Escape control characters, so that file and class names cannot affect the terminal.

    >>> escape_control("a\\x1b[31m.png")
    'a\\\\x1b[31m.png'
    """
    return CONTROL.sub(lambda letter: ascii(letter[0])[1:-1], text)
