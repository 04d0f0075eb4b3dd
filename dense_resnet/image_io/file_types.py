"""Identify an unexpected file by its first bytes, for messages: a server's error page, a git-lfs pointer, a packed archive."""

from __future__ import annotations

LENGTH = 512  # first bytes of a file, enough for :func:`describe`
LFS_POINTER = b"version https://git-lfs"
BEGINNINGS = {
    b"model_checkpoint_path:": "the list of a folder's checkpoints (name the folder, or one of them)",
    b"\x1f\x8b": "a gzip archive (unpack it first)",
    b"BZh": "a bzip2 archive (unpack it first)",
    b"\xfd7zXZ\0": "an xz archive (unpack it first)",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"BM": "a BMP picture",
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
    b"%PDF": "a PDF document",
}


def describe(start: bytes) -> str | None:
    """Say what a file is that begins with `start`, and what to do about it; return None if it is unknown.

    >>> describe(b"<html><head>")
    "text that begins '<html><head>' (a failed download?)"
    >>> describe(bytes(40)) is None
    True
    """
    if not start:
        return "an empty file (a failed download?)"
    if start[257:262] == b"ustar":
        return "a tar archive (unpack it first)"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "a WebP picture"
    if start[4:8] == b"ftyp":
        return "a HEIC or AVIF picture, or a film"
    for beginning, name in BEGINNINGS.items():
        if start.startswith(beginning):
            return name
    if start[:40].isascii() and b"\0" not in start[:40]:
        is_pointer = start.startswith(LFS_POINTER)
        why = "a pointer of git-lfs: `git lfs pull` fetches the file" if is_pointer else "a failed download?"
        return f"text that begins {start[:40].decode('ascii')!r} ({why})"
    return None
