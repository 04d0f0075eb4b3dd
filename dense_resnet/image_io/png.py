"""Check that a PNG is complete, by its specification, https://www.w3.org/TR/png-3. It takes about as long as decoding.

Pillow ignores checksums of pixels, fills missing data with zeros, and uses the last of several headers, so labels could
silently change.
"""

from __future__ import annotations

import struct
import zlib

START = b"\x89PNG\r\n\x1a\n"
HEADER, PALETTE, PIXELS, END = b"IHDR", b"PLTE", b"IDAT", b"IEND"
FRAME, EXIF = b"fcTL", b"eXIf"  # the frame of an animation's first picture, which Pillow obeys; the orientation
APPLES = b"CgBI"
KIND_PALETTE = 3
CHANNELS = {0: 1, 2: 3, KIND_PALETTE: 1, 4: 2, 6: 4}  # of a pixel, by kind
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # x, y, steps
PIECE = 2**14  # bytes that are unpacked at a time, to 16 MiB at most
PADDING = 2**16  # harmless bytes after the last row


def check(data: bytes) -> None:
    """Raise a :class:`ValueError` with the reason if the PNG in `data` is incomplete; bytes after its end are ignored."""
    view = memoryview(data)
    header: tuple[int, ...] | None = None
    seen: set[bytes] = set()
    pixels: list[memoryview] = []
    name, at = b"", len(START)
    while name != END:
        before = name
        if at + 12 > len(data):
            raise ValueError(f"it ends at byte {len(data)}, before its last chunk")
        length, name = struct.unpack_from(">I4s", data, at)
        content = view[at + 8 : at + 8 + length]
        if at + 12 + length > len(data):
            raise ValueError(f"it ends within the chunk at byte {at}")
        if struct.unpack_from(">I", data, at + 8 + length)[0] != zlib.crc32(view[at + 4 : at + 8 + length]):
            raise ValueError(f"the checksum of the chunk at byte {at} does not match")
        if name == APPLES:
            raise ValueError("it is Apple's variant for iPhones, which is not a PNG")
        if (name == HEADER) != (at == len(START)) or (name == HEADER and length != 13):
            raise ValueError(f"at byte {at} its header is missing, too long, or a second one")
        if name == HEADER:
            header = struct.unpack(">IIBBBBB", content)
        elif name == PALETTE:
            if name in seen or pixels or length % 3 or not 0 < length <= 768:
                raise ValueError(f"the palette at byte {at} is a second one, too late, or of a wrong length")
        elif name == PIXELS:
            if pixels and before != PIXELS:
                raise ValueError(f"the pixels at byte {at} are separate from the others")
            pixels.append(content)
        elif name == FRAME:
            if header and not pixels and bytes(content[4:20]) != struct.pack(">IIII", *header[:2], 0, 0):
                raise ValueError(f"the frame at byte {at} does not cover the whole picture")
        elif name == EXIF and name in seen:
            raise ValueError(f"the EXIF block at byte {at} is a second one")
        elif name != END and not (name.isalpha() and name[0] & 32):  # an upper-case first letter: the chunk may not be ignored
            raise ValueError(f"the chunk {name!r} at byte {at} is unknown and required for decoding")
        seen.add(name)
        at += 12 + length
    assert header is not None
    if header[3] == KIND_PALETTE and PALETTE not in seen:
        raise ValueError("its palette is missing")
    _check_pixels(pixels, _size(*header))


def last(data: bytes, wanted: bytes) -> bytes | None:
    """Return the content of the last chunk of that name in a complete PNG; None without one."""
    name, at, found = b"", len(START), None
    while name != END:
        length, name = struct.unpack_from(">I4s", data, at)
        if name == wanted:
            found = data[at + 8 : at + 8 + length]
        at += 12 + length
    return found


def _size(width: int, height: int, depth: int, kind: int, compression: int, filters: int, interlaced: int) -> int:
    """Return the uncompressed size of the rows in bytes, each with one byte for its filter."""
    if kind not in CHANNELS or compression or filters or interlaced > 1:
        raise ValueError("its header has invalid values")
    parts = [(0, 0, 1, 1)] if not interlaced else PASSES
    sizes = [(-(-max(0, width - x) // across), -(-max(0, height - y) // down)) for x, y, across, down in parts]
    return sum(rows * (1 + -(-columns * CHANNELS[kind] * depth // 8)) for columns, rows in sizes if columns)


def _check_pixels(pixels: list[memoryview], size: int) -> None:
    stream, found = zlib.decompressobj(), 0
    try:
        for part in pixels:
            for start in range(0, len(part), PIECE):
                if stream.eof or found > size + PADDING:
                    break
                found += len(stream.decompress(part[start : start + PIECE]))
    except zlib.error as error:
        raise ValueError(f"its pixels cannot be unpacked: {error}") from error
    if found < size or not stream.eof:
        raise ValueError(f"its pixels need {size} bytes, and it has {found}")
