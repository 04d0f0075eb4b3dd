"""Where an encoded image or label is, and names that splits and samples may have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dense_resnet.errors import InputError
from dense_resnet.image_io.decoding import SUFFIXES, read_file

SPLIT_NAMES = "a split's name is part of files' names: it is not empty, . or .., and has no /, \\ or NUL in it"


@dataclass(frozen=True)
class Source:
    """Where an encoded image or label is: a file, or a part of one."""

    path: Path
    offset: int = 0
    length: int | None = None  # in bytes; None for all of the file

    def __str__(self) -> str:
        return str(self.place)

    @property
    def place(self) -> Path:
        """For messages: the file, and where in it."""
        return self.path if self.length is None else Path(f"{self.path} at byte {self.offset}")

    def read(self, most: int | None = None) -> bytes:
        """Read the bytes, or at most `most` of them."""
        if self.length is None:
            return read_file(self.path, most)
        length = self.length if most is None else min(most, self.length)
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                data = file.read(length)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror or error}.") from error
        if len(data) != length:
            raise InputError(f"{self}: the file was truncated after it was opened.")
        return data


def is_inside(name: str) -> bool:
    """Return whether a relative path stays inside the folder it is relative to."""
    pure = PurePosixPath(name)
    return not (pure.is_absolute() or ".." in pure.parts or "\0" in name or not pure.parts)


def is_split(name: str) -> bool:
    """Return whether files can be named after a split of that name, and stay in their folder."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")


def without_suffix(name: str) -> str:
    """Return `name` without the extension of an image, if it has one."""
    pure = PurePosixPath(name)
    stem = pure.name.removesuffix(pure.suffix)
    return str(pure.with_name(stem)) if pure.suffix.lower() in SUFFIXES and stem.strip(".") else str(pure)
