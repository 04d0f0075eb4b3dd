"""What weights are packed in: each file here reads one container into arrays under their own names."""

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from dense_resnet.errors import InputError

ZIP_START = b"PK\x03\x04"
# Of a damaged zip file, and of JSON in it.
ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OverflowError, RuntimeError, ValueError)


@contextlib.contextmanager
def refuse_damaged(path: Path, kind: str, advice: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn the `errors` of a reader into an :class:`InputError`: the file at `path` cannot be read as a `kind`."""
    try:
        yield
    except InputError:
        raise
    except errors as error:
        raise InputError(f"{path}: cannot be read as {kind}: {error}. {advice}") from error
