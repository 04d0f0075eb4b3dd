"""Identify a file by its first bytes, for error messages about unexpected files.

The most common: a server's error page instead of the download, a git-lfs pointer instead of the file, and an archive that
was not unpacked.
"""

from __future__ import annotations

LENGTH = 512  # first bytes of a file, enough for :func:`describe`
LFS_POINTER = b"version https://git-lfs"
ARCHIVES = {b"\x1f\x8b": "a gzip archive", b"BZh": "a bzip2 archive", b"\xfd7zXZ\0": "an xz archive"}
PICTURES = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"BM": "a BMP picture",
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
    b"%PDF": "a PDF document",
}
STATE = b"model_checkpoint_path:"


def describe(start: bytes) -> str | None:
    """Say what a file is that begins with `start`, and what to do about it; return None if it is unknown.

    >>> describe(b"<html><head>")
    "text that begins '<html><head>' (a failed download?)"
    >>> describe(bytes(40)) is None
    True
    """
    if not start:
        return "an empty file (a failed download?)"
    if start.startswith(LFS_POINTER):
        return f"text that begins {_quote_start(start)} (a pointer of git-lfs: `git lfs pull` fetches the file)"
    if start[257:262] == b"ustar":
        return "a tar archive (unpack it first)"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "a WebP picture"
    if start[4:8] == b"ftyp":
        return "a HEIC or AVIF picture, or a film"
    if start.startswith(STATE):
        return "the list of a folder's checkpoints (name the folder, or one of them)"
    for known, advice in ((ARCHIVES, " (unpack it first)"), (PICTURES, "")):
        for beginning, name in known.items():
            if start.startswith(beginning):
                return name + advice
    if start[:40].isascii() and b"\0" not in start[:40]:
        return f"text that begins {_quote_start(start)} (a failed download?)"
    return None


def _quote_start(start: bytes) -> str:
    return repr(start[:40].decode("ascii"))
