"""Find images: folders, files, patterns and lists become one sorted list with a relative path for each."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dense_resnet.errors import InputError, pluralize
from dense_resnet.image_io.decoding import SUFFIXES, read_file
from dense_resnet.jobs import atomic_files

KEPT_ASIDE = ("__MACOSX", "@eaDir")  # folders in archives from macOS, and a NAS's folders of previews
UNREAD = {".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl", ".tif", ".tiff", ".webp"}
MOST_NAMED = 3  # hidden files in one message


@dataclass(frozen=True)
class Found:
    """An image to read."""

    path: Path
    relative: str  # to the folder in which it was found, with forward slashes: outputs are named after it

    @property
    def place(self) -> Path:
        return self.path

    def read(self, most: int | None = None) -> bytes:
        return read_file(self.path, most)


def find_images(
    sources: Sequence[str], without: str | os.PathLike[str] | None = None, note: Callable[[str], object] = lambda message: None
) -> list[Found]:
    """Find the images of `sources`, sorted by relative path.

    Args:
        sources: folders (searched through, for .jpg, .jpeg and .png), image files, glob patterns, or ``.txt`` lists with
            one path per line, relative to the list's folder and inside it. In folders, hidden files and folders are ignored.
        without: a folder whose files are ignored, even if a source contains it.
        note: called with a message for each folder that also contains pictures of other types, or hidden ones.

    Raises:
        InputError: a source does not exist or contains no image, a list leaves its folder, or two images would have the
            same relative path. All problems of a list are reported at once.
    """
    found: list[Found] = []
    single: list[Path] = []
    for source in sources:
        path = Path(source)
        if path.is_dir():
            found += [Found(file, file.relative_to(path).as_posix()) for file in _search(source, without, note)]
        elif path.is_file() and path.suffix.lower() == ".txt":
            found += _read_list(path)
        elif path.is_file():
            single.append(path)
        elif glob.has_magic(source):
            matches = [Path(match) for match in glob.glob(source, recursive=True) if not os.path.isdir(match)]
            if not matches:
                raise InputError(f"{source}: no file matches this pattern.")
            single += matches
        else:
            raise InputError(f"{source}: no such file or folder.")
    if single:
        absolute = [Path(os.path.abspath(file)) for file in single]
        common = Path(os.path.commonpath([file.parent for file in absolute]))
        found += [Found(file, path.relative_to(common).as_posix()) for file, path in zip(single, absolute, strict=True)]
    by_name: dict[str, Found] = {}
    for image in found:
        other = by_name.setdefault(image.relative, image)
        if other.path.absolute() != image.path.absolute():
            raise InputError(
                f"{other.path} and {image.path} would both be named {image.relative}, and one would overwrite the other. "
                "Run them separately, or pass the folder above both."
            )
    return [by_name[name] for name in sorted(by_name)]


def check_apart(found: Sequence[Found], out: Path) -> None:
    """Raise an :class:`InputError` if the output folder `out` contains an image."""
    for image in found:
        if atomic_files.lies_in(image.path, out):
            raise InputError(f"{out}: contains the images themselves ({image.path}). Choose another folder for --out.")


def _search(source: str, without: str | os.PathLike[str] | None, note: Callable[[str], object]) -> list[Path]:
    """Return the images of a folder. Arguments as :func:`find_images`."""
    hidden: list[Path] = []
    everything = list(_walk(Path(source), hidden))
    suffixes = Counter(file.suffix.lower() for file in everything)
    ignored = ""
    if hidden:
        named = ", ".join(path.name for path in hidden[:MOST_NAMED]) + (", …" if len(hidden) > MOST_NAMED else "")
        ignored = f" hidden files and folders are ignored ({len(hidden):,}: {named})."
    inside = [file for file in everything if file.suffix.lower() in SUFFIXES]
    if not inside:
        others = ", ".join(sorted(suffixes.keys() - {""})[:10])
        held = f" It contains files of other types ({others}): convert pictures to PNG or JPEG." if others else ""
        raise InputError(f"{source}: the folder contains no image (searched for {', '.join(SUFFIXES)}).{held}{ignored}")
    if without is not None:
        inside = [file for file in inside if not atomic_files.lies_in(file, Path(without))]
        if not inside:
            raise InputError(f"{source}: all its images are in {without}, where results go. Choose another --out.")
    if unread := ", ".join(f"{suffixes[suffix]} {suffix}" for suffix in sorted(suffixes.keys() & UNREAD)):
        note(f"{source}: other pictures are ignored ({unread}): only PNG and JPEG are read, as {', '.join(SUFFIXES)}.")
    if ignored:
        note(f"{source}:{ignored}")
    return inside


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of that name belongs to a program: ``.ipynb_checkpoints``, or ``._a.jpg`` of macOS."""
    return name.startswith(".") or name in KEPT_ASIDE


def _walk(folder: Path, hidden: list[Path], above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[Path]:
    """Yield every file below `folder`, following links except cyclic ones; append hidden folders and pictures to `hidden`."""
    try:
        found = os.stat(folder)
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}.") from error
    own = (found.st_dev, found.st_ino)
    for entry in entries if own not in above else ():
        is_folder = entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path))
        if is_hidden(entry.name):
            hidden += [Path(entry.path)] if is_folder or Path(entry.name).suffix.lower() in SUFFIXES else []
        elif is_folder:
            yield from _walk(Path(entry.path), hidden, above | {own})
        else:
            yield Path(entry.path)


def _read_list(path: Path) -> list[Found]:
    found, problems = [], []
    for number, line in enumerate(path.read_text("utf-8-sig", errors="surrogateescape").splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\0" in name:
            problems.append(f"line {number}: {name!r} is not inside the list's folder")
        elif not os.path.isfile(path.parent / name):
            problems.append(f"line {number}: no such file {name!r} in {path.parent}")
        else:
            found.append(Found(path.parent / name, str(pure)))
    if problems:
        bad = f"{pluralize(len(problems), 'bad line')}: {'; '.join(problems[:10])}"
        raise InputError(f"{path}: {bad}. A line is one path, relative to the list's folder.")
    if not found:
        raise InputError(f"{path}: the list is empty.")
    return found
