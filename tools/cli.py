"""The command ``dense-resnet``: one file here per verb, in the order of the work.

A verb's file has ``HELP``, ``configure(parser)`` and ``main(args)``, which returns the exit code. Verbs import all but errors
and planning inside their functions, so that ``--help`` and ``describe`` start at once. Exit codes: 0 done, 1 a user error or
a law that fails, 2 unknown options, 75 stopped by a signal; the same command resumes.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import itertools
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from dense_resnet import __version__
from dense_resnet.errors import InputError, escape_control

from .terminal import STOPPED, _drop_output, _interrupts, _outlive_readers

VERBS = (
    "describe", "check", "convert", "extract", "doctor", "train", "evaluate", "compare", "predict", "export", "benchmark",
    "demo",
)  # fmt: skip
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the output has no room left


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; turn a user error into a single message."""
    try:  # Ctrl-C may come during the imports
        _outlive_readers()
        parser = argparse.ArgumentParser(
            prog="dense-resnet", description="ResNet backbones for dense prediction.", allow_abbrev=False
        )
        parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        modules = {verb: importlib.import_module(f"{__package__}.{verb}") for verb in VERBS}
        parsers = {}
        for verb, module in modules.items():
            parsers[verb] = verbs.add_parser(verb, help=module.HELP, description=module.HELP, allow_abbrev=False)
            module.configure(parsers[verb])
        words = sys.argv[1:] if arguments is None else arguments
        _check_verb(parser, words)
        strange = _strange_options(words[1:], parsers[words[0]]) if words and words[0] in parsers else []
        if strange:  # an unknown --output says more than a missing --out
            parts: list[Any] = [*parsers[words[0]]._actions, *parsers[words[0]]._mutually_exclusive_groups]
            for part in parts:
                part.required = False
        args, unknown = parser.parse_known_args(words)
        if unknown or strange:
            listed = " ".join(unknown or strange)
            hints = "".join(f" {hint}" for hint in _hints(strange, args.verb, parsers))
            parsers[args.verb].error(f"unrecognized arguments: {listed}{'.' if hints else ''}{hints}")
        _check_texts(args)
        with _interrupts(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Image size .* exceeds limit", RuntimeWarning)  # an error names such images
            warnings.showwarning = _print_warning
            code: int = modules[args.verb].main(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return STOPPED
    except ModuleNotFoundError as error:
        message = f"{error}, in the Python {sys.executable}. Install the dependencies with `pip install .` in the checkout."
    except (InputError, ImportError) as error:
        message = str(error)
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            raise
        if error.filename is None:
            _drop_output()
        message = f"{error.filename or 'the output'}: {error.strerror}."
    print(f"error: {escape_control(message)}", file=sys.stderr)
    return 1


def _print_warning(message: Warning | str, *unused: Any, **_: Any) -> None:
    """Print a warning of the library without its place in the code."""
    print(f"warning: {escape_control(str(message))}", file=sys.stderr)


def _check_verb(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """End with an error if the first argument is neither a verb nor an option of the command; propose what may be meant."""
    if not arguments or arguments[0] in (*VERBS, "-h", "--help", "--version"):
        return
    first = arguments[0]
    if first.startswith("-"):
        verb = next((argument for argument in arguments if argument in VERBS), "VERB")
        parser.error(f"{first} is before the verb; options follow it: dense-resnet {verb} … {first}")
    close = difflib.get_close_matches(first, VERBS, 1)
    parser.error(f"unknown verb {first!r}.{f' Did you mean {close[0]}?' if close else ''} Verbs: {', '.join(VERBS)}.")


def _strange_options(words: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Return the options among a verb's arguments that it does not have."""
    given = itertools.takewhile(lambda word: word != "--", words)
    names = [word.partition("=")[0] for word in given if re.match(r"--?[A-Za-z]\S*$", word)]
    return [name for name in names if name not in parser._option_string_actions]


def _hints(strange: Sequence[str], verb: str, parsers: dict[str, argparse.ArgumentParser]) -> Iterator[str]:
    """Propose what options that `verb` does not have may mean: its own, by meaning or by letters, or another verb's."""
    from . import synonyms

    options = {name: parser._option_string_actions.keys() for name, parser in parsers.items()}
    own, places = options[verb], {str(action.metavar) for action in parsers[verb]._actions if not action.option_strings}
    for given in strange:
        plain = f"--{synonyms.plain_name(given)}"
        if plain in own:
            yield f"Did you mean {plain}?"
        elif said := synonyms.suggest_option(given, own | places):
            yield said
        elif others := [name for name in parsers if given in options[name]]:
            yield f"{given} is an option of {', '.join(others)}."
        elif close := [name for name in own if name.startswith(plain)] or difflib.get_close_matches(plain, own, 1):
            yield f"Did you mean {close[0]}?"


def _check_texts(args: argparse.Namespace) -> None:
    """Refuse empty texts, which would mean the current folder; expand a ``~`` that no shell expanded."""

    def expand(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return [expand(name, item) for item in value]
        if value == "":
            raise InputError(f"{name} is empty. Is a shell variable unset?")
        own_home = isinstance(value, str) and (value == "~" or value.startswith("~/"))
        return os.path.expanduser(value) if own_home else value

    for name, value in vars(args).items():
        setattr(args, name, expand(name, value))
