"""PNG from its specification: a decoder that admits nothing else, and files whose chunks lie under checksums that fit.

Source: https://www.w3.org/TR/png-3. Written for the tests alone, in plain Python, for pictures of a few pixels.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from campaign.mutations import EXTREMES, mutate

START = b"\x89PNG\r\n\x1a\n"
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by kind
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # x, y, steps
LARGEST = 2**16  # pixels

Chunk = tuple[bytes, bytes]  # name and content


@dataclass(frozen=True)
class Picture:
    """What a PNG holds."""

    kind: int
    depth: int
    samples: np.ndarray  # [height, width, samples] as they stand there
    palette: np.ndarray | None  # [entries, 3]
    orientation: int | None  # of its eXIf chunk, 1 without one; None where nobody can say
    transparent: bool | None  # whether a pixel is, be it in part; None where nobody can say

    @property
    def rgb(self) -> np.ndarray:
        """[height, width, 3] float64 from 0 to 255; without alpha."""
        if self.palette is not None:
            entries = np.zeros((256, 3))
            entries[: len(self.palette)] = self.palette
            return entries[self.samples[..., 0]]
        values = self.samples[..., : 3 if self.kind in (2, 6) else 1] * (255 / (2**self.depth - 1))
        return np.broadcast_to(values, (*values.shape[:2], 3))


def chunks_of(data: bytes) -> list[Chunk]:
    """All chunks up to IEND.

    Raises:
        ValueError: a checksum does not fit, or a chunk is cut.
    """
    if not data.startswith(START):
        raise ValueError("not a PNG")
    found, at = [], len(START)
    while not (found and found[-1][0] == b"IEND"):
        if at + 12 > len(data):
            raise ValueError("cut")
        length = int.from_bytes(data[at : at + 4], "big")
        name, content, crc = data[at + 4 : at + 8], data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        if len(content) < length or int.from_bytes(crc, "big") != zlib.crc32(name + content):
            raise ValueError("checksum")
        found.append((name, content))
        at += 12 + length
    return found


def file_of(chunks: Sequence[Chunk]) -> bytes:
    """A file of these chunks, whose checksums fit."""
    return START + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def png_of(samples: np.ndarray, kind: int, depth: int, interlaced: bool = False, others: Sequence[Chunk] = ()) -> bytes:
    """A file of samples ``[height, width, samples]``, every line under another filter."""
    header, data = pixels_of(samples, kind, depth, interlaced, lambda lines: [number % 5 for number in range(lines)])
    return file_of([header, *others, (b"IDAT", data), (b"IEND", b"")])


def pixels_of(
    samples: np.ndarray, kind: int, depth: int, interlaced: bool, filters: Callable[[int], Sequence[int]]
) -> tuple[Chunk, bytes]:
    """(IHDR, what stands in IDAT) of samples ``[height, width, samples]``; `filters` are those of so many lines."""
    height, width = samples.shape[:2]
    raw = b""
    for part in _parts(samples, interlaced):
        before = bytes(len(_pack(part[0], depth)))
        for row, own in zip(part, filters(len(part)), strict=True):
            line = _pack(row, depth)
            raw += bytes([own]) + _filter(line, before, own, _step(kind, depth), -1)
            before = line
    return (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)), zlib.compress(raw)


def decode(data: bytes) -> Picture:
    """The picture in a PNG.

    Raises:
        ValueError: it is none.
    """
    chunks = chunks_of(data)
    names = [name for name, _ in chunks]
    places = [number for number, name in enumerate(names) if name == b"IDAT"]
    if names[0] != b"IHDR" or names.count(b"IHDR") > 1 or names.count(b"PLTE") > 1 or not places:
        raise ValueError("order of chunks")
    if places != list(range(places[0], places[-1] + 1)):
        raise ValueError("IDAT in pieces")
    if any(name[0] < 97 and name not in (b"IHDR", b"PLTE", b"IDAT", b"IEND") for name in names):
        raise ValueError("an unknown chunk that is critical")
    if len(chunks[0][1]) != 13:
        raise ValueError("IHDR")
    width, height, depth, kind, compression, filters, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    if depth not in DEPTHS.get(kind, ()) or compression or filters or interlaced > 1 or not 0 < width * height <= LARGEST:
        raise ValueError("IHDR")
    palette = None
    if kind == 3:
        if b"PLTE" not in names[: places[0]]:
            raise ValueError("no palette")
        content = chunks[names.index(b"PLTE")][1]
        if len(content) % 3 or not 0 < len(content) <= 768:
            raise ValueError("PLTE")
        palette = np.frombuffer(content, np.uint8).reshape(-1, 3)
    stream = zlib.decompressobj()
    raw = stream.decompress(b"".join(content for name, content in chunks if name == b"IDAT"), 2**24)
    samples = np.zeros((height, width, SAMPLES[kind]), np.uint16)
    at = 0
    for part in _parts(samples, bool(interlaced)):
        size = -(-part.shape[1] * SAMPLES[kind] * depth // 8)
        before = bytes(size)
        for row in part:
            line = raw[at + 1 : at + 1 + size]
            if len(line) < size or raw[at] > 4:
                raise ValueError("data")
            before = _filter(line, before, raw[at], _step(kind, depth), 1)
            row[:] = _unpack(before, depth)[: row.size].reshape(row.shape)
            at += 1 + size
    if not stream.eof:
        raise ValueError("the stream has no end, or a wrong checksum")
    transparent = _transparent(kind, depth, samples, palette, chunks)
    return Picture(kind, depth, samples, palette, _orientation(chunks), transparent)


def _orientation(chunks: Sequence[Chunk]) -> int | None:
    """What the chunks say of it, where one is sound and no other one could be meant."""
    texts = [content for name, content in chunks if name in (b"tEXt", b"zTXt", b"iTXt")]
    blocks = [content for name, content in chunks if name == b"eXIf"]
    if len(blocks) > 1 or any(b"rientation" in text or text.startswith(b"Raw profile") for text in texts):
        return None
    return orientation_in(blocks[0]) if blocks else 1


def orientation_in(block: bytes) -> int | None:
    """What a block of EXIF says of it, if that is all that it says: https://www.cipa.jp/std/documents/e/DC-008-2012_E.pdf."""
    order = {b"MM\0*": ">", b"II*\0": "<"}.get(block[:4])
    try:
        at = struct.unpack_from(f"{order}I", block, 4)[0]
        entries = [
            struct.unpack_from(f"{order}HHIH", block, at + 2 + 12 * number)
            for number in range(struct.unpack_from(f"{order}H", block, at)[0])
        ]
    except struct.error:  # or neither order
        return None
    own = [(kind, count, value) for tag, kind, count, value in entries if tag == 0x0112]
    if len(entries) != 1 or [one[:2] for one in own] != [(3, 1)]:  # a list of more, whose order and kinds may be wrong
        return None
    return own[0][2] if 1 <= own[0][2] <= 8 else 1


def _transparent(
    kind: int, depth: int, samples: np.ndarray, palette: np.ndarray | None, chunks: Sequence[Chunk]
) -> bool | None:
    if kind in (4, 6):
        return bool((samples[..., -1] < 2**depth - 1).any())
    names = [name for name, _ in chunks]
    if b"tRNS" not in names:
        return False
    at = names.index(b"tRNS")
    content = chunks[at][1]
    right = len(content) == 2 * SAMPLES[kind] if palette is None else 0 < len(content) <= len(palette)
    if names.count(b"tRNS") > 1 or b"PLTE" in names[at:] or at > names.index(b"IDAT") or not right:
        return None
    if palette is None:
        clear = np.frombuffer(content, ">u2") & 2**depth - 1  # the other bits do not count
        return bool((samples == clear).all(axis=2).any())
    alpha = np.full(256, 255)
    alpha[: len(content)] = list(content)
    return bool((alpha[samples] < 255).any())


def _parts(samples: np.ndarray, interlaced: bool) -> list[np.ndarray]:
    """Views on the pixels in the order in which they are stored."""
    parts = [samples[y::down, x::across] for x, y, across, down in PASSES] if interlaced else [samples]
    return [part for part in parts if part.size]


def _step(kind: int, depth: int) -> int:
    return max(1, SAMPLES[kind] * depth // 8)


def _pack(row: np.ndarray, depth: int) -> bytes:
    values = row.ravel()
    if depth == 16:
        return values.astype(">u2").tobytes()
    bits = (values[:, None] >> np.arange(depth - 1, -1, -1) & 1).astype(np.uint8)
    return np.packbits(bits.ravel()).tobytes()


def _unpack(line: bytes, depth: int) -> np.ndarray:
    if depth == 16:
        return np.frombuffer(line, ">u2").astype(np.uint16)
    bits = np.unpackbits(np.frombuffer(line, np.uint8)).reshape(-1, depth)
    return bits @ (1 << np.arange(depth - 1, -1, -1))


def _filter(line: bytes, before: bytes, kind: int, step: int, sign: int) -> bytes:
    """A line with its filter applied (`sign` -1) or undone (1)."""
    out = bytearray(line)
    source = out if sign > 0 else line
    for at, value in enumerate(line):
        left, above = source[at - step] if at >= step else 0, before[at]
        corner = before[at - step] if at >= step else 0
        match kind:
            case 0:
                predicted = 0
            case 1:
                predicted = left
            case 2:
                predicted = above
            case 3:
                predicted = (left + above) // 2
            case _:
                nearest = left + above - corner
                predicted = min((left, above, corner), key=lambda candidate: abs(nearest - candidate))
        out[at] = (value + sign * predicted) % 256
    return bytes(out)


def damage_chunks(data: bytes, other: bytes, generator: np.random.Generator) -> bytes:
    """A PNG with right checksums, whose chunks are not what they were."""
    chunks, others = chunks_of(data), chunks_of(other)
    at, twin = (int(generator.integers(len(chunks))) for _ in range(2))
    name, content = chunks[at]
    stray = others[generator.integers(len(others))]
    match int(generator.integers(12)):
        case 0:
            del chunks[at]
        case 1:
            chunks.insert(twin, chunks[at])
        case 2:
            chunks[at], chunks[twin] = chunks[twin], chunks[at]
        case 3:
            chunks.insert(at, stray)
        case 4:
            chunks[at] = bytes([name[0] ^ 32 * int(generator.integers(2)), *mutate(name, name, (), generator)[1:4]]), content
            chunks[at] = chunks[at][0].ljust(4, b"x"), content
        case 5:
            half = int(generator.integers(len(content) + 1))
            chunks[at : at + 1] = [(name, content[:half]), (name, content[half:])]
        case 6:  # a header within what was a sound one
            fields = list(struct.unpack(">IIBBBBB", chunks[0][1]))
            which = int(generator.integers(7))
            fields[which] = (
                (EXTREMES[generator.integers(len(EXTREMES))] if generator.integers(2) else fields[which] + 1) % 2**32
                if which < 2
                else int(generator.choice([0, 1, 2, 3, 4, 6, 8, 16]))
            )
            header = struct.pack(">IIBBBBB", *fields)
            chunks[0:1] = [(b"IHDR", header)] if generator.integers(3) else [chunks[0], (b"IHDR", header)]
        case 7 | 8:  # other pixels, compressed as they should be
            raw = zlib.decompress(b"".join(part for kind, part in chunks if kind == b"IDAT"))
            raw = mutate(raw, raw[::-1], (), generator)
            chunks = [(kind, part) for kind, part in chunks if kind not in (b"IDAT", b"IEND")]
            chunks += [(b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
        case 9:
            picture = decode(data)
            clear = picture.samples[0, 0] + 256 * int(generator.integers(2)) * (picture.depth < 16)
            extra = [(b"tRNS", clear.astype(">u2").tobytes())] * 2 + [(b"eXIf", _exif(int(generator.integers(10))))] * 2
            extra += [(b"tRNS", generator.bytes(int(generator.integers(1, 9))))]
            extra += [(b"gAMA", b"\0\0\0\1"), (b"acTL", struct.pack(">II", 2, 0)), (b"CgBI", bytes(4)), (b"IHDR", b"")]
            height, width = picture.samples.shape[:2]
            sides = width - int(generator.integers(2)), height - int(generator.integers(2)), *generator.integers(2, size=2)
            extra += [(b"fcTL", struct.pack(">IIIIIHHBB", 0, *map(int, sides), 1, 10, 0, 0))] * 3
            extra += [(b"fdAT", b"\0\0\0\1" + stray[1]), (b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0tiff:Orientation="6"')]
            extra += [(b"tEXt", b"XML:com.adobe.xmp\0" + _exif(6)), (b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20)))]
            chunks.insert(int(generator.integers(len(chunks))), extra[generator.integers(len(extra))])
        case _:
            chunks[at] = name, mutate(content, stray[1], (), generator)
    return file_of(chunks)


def _exif(orientation: int) -> bytes:
    return b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)
