"""Image files made by hand, from known pixels, of every kind that PNG and JPEG have: each is read right, or refused clearly.

PNGs are written here as the specification says, so that no library has a part in what is right: every colour type, bit
depth, interlace and row filter, with transparency, gamma and sRGB chunks, from 1x1 to 9x9 pixels, where Adam7 has empty
passes. JPEGs come from Pillow's encoder and, where it has no option for them, from a small one of blocks of one colour.

OpenCV reads all of them alike. Pillow has two ways of its own, which are made good for here: it clips a grey of 16 bits to
255, and it stretches greys of 2 and 4 bits but not the one that is transparent.
"""

import io
import itertools
import struct
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from helpers.datasets import TURNS, encode
from PIL import Image, features

from campaign import pngs
from dense_resnet.errors import InputError
from dense_resnet.image_io import decoding
from segmentation.data.label_files import decode_indices, decode_label
from segmentation.data.label_space import LabelSpace
from segmentation.data.samples import Sample
from segmentation.data.source import Source

GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6  # PNG's colour types
FILTERS = (*range(5), None)  # None: another one each row
LARGEST = 9  # pixels of a side
KINDS = [
    (kind, depth, interlaced, row_filter, extra)
    for kind, depths in pngs.DEPTHS.items()
    for depth in depths
    for interlaced in (False, True)
    for row_filter in FILTERS
    for extra in (None, "gAMA", "sRGB", *(["tRNS"] if kind in (GRAY, RGB, PALETTE) else []))
]


def png(pixels, kind, depth, random, *, interlaced=False, row_filter=0, before=(), after=()):
    """A PNG file of samples ``[height, width, samples]``; `before` and `after` are chunks around the pixels'."""

    def filters(lines):
        return random.integers(0, 5, lines).tolist() if row_filter is None else [row_filter] * lines

    header, data = pngs.pixels_of(pixels, kind, depth, interlaced, filters)
    cut = int(random.integers(0, len(data)))
    return pngs.file_of([header, *before, (b"IDAT", data[:cut]), (b"IDAT", data[cut:]), *after, (b"IEND", b"")])


def blobs(size, random):
    """Pixels as a photograph's: smooth, in colours."""
    coarse = random.integers(0, 256, (3, 4, 3)).astype(np.uint8)
    return cv2.resize(coarse, tuple(int(side) for side in size[::-1]), interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class Picture:
    """A random picture, and how a PNG is to hold it."""

    kind: int
    depth: int
    pixels: np.ndarray  # [height, width, samples]
    palette: np.ndarray | None  # [colours, 3] uint8
    chunks: list[pngs.Chunk]  # to go before the pixels
    opaque: bool

    @property
    def rgb(self):
        """Its colours by the specification, uint8 ``[height, width, 3]``; alpha is dropped."""
        if self.palette is not None:
            return self.palette[self.pixels[..., 0]]
        own = eight_bits(self.pixels, self.depth)
        return own[..., :3] if self.kind in (RGB, RGB_ALPHA) else np.repeat(own[..., :1], 3, axis=2)

    @property
    def gray(self):
        """The same in grey, ``[height, width, 1]``."""
        return eight_bits(self.pixels[..., :1], self.depth) if self.kind in (GRAY, GRAY_ALPHA) else luma(self.rgb)


def draw_picture(kind, depth, extra, random):
    """A random picture."""
    pixels = random.integers(0, 2**depth, (*random.integers(1, LARGEST + 1, 2), pngs.SAMPLES[kind]))
    palette, chunks, opaque = None, [], True
    if kind in (GRAY_ALPHA, RGB_ALPHA):
        if random.random() < 0.5:
            pixels[..., -1] = 2**depth - 1
        opaque = pixels[..., -1].min() == 2**depth - 1
    if extra == "gAMA":
        chunks.append((b"gAMA", struct.pack(">I", int(random.integers(20000, 200000)))))
    if extra == "sRGB":
        chunks.append((b"sRGB", bytes([int(random.integers(0, 4))])))
    if kind == PALETTE:
        palette = random.integers(0, 256, (int(random.integers(pixels.max() + 1, 2**depth + 1)), 3)).astype(np.uint8)
        chunks.append((b"PLTE", palette.tobytes()))
    if extra == "tRNS" and kind == PALETTE:
        alpha = np.full(len(palette), 255)
        alpha[: random.integers(1, len(palette) + 1)] = random.choice([0, 100, 255])
        opaque = alpha[pixels].min() == 255
        chunks.append((b"tRNS", alpha.astype(np.uint8).tobytes()))
    elif extra == "tRNS":
        clear = pixels[0, 0] if random.random() < 0.5 else random.integers(0, 2**depth, pngs.SAMPLES[kind])
        opaque = not (pixels == clear).all(axis=2).any()
        chunks.append((b"tRNS", clear.astype(">u2").tobytes()))
    return Picture(kind, depth, pixels, palette, chunks, opaque)


def eight_bits(pixels, depth):
    """Samples as uint8: few bits are stretched to all of 0..255, of 16 the high ones count."""
    return (pixels >> 8 if depth == 16 else pixels * 255 // (2**depth - 1)).astype(np.uint8)


def luma(rgb):
    """The grey of colours by ITU-R 601, as Pillow rounds it."""
    red, green, blue = np.moveaxis(rgb.astype(int), 2, 0)
    return (red * 19595 + green * 38470 + blue * 7471 + 2**15 >> 16)[..., None]


def pictures(campaign):
    """(what to say of a case, its picture, its file, whether some pass has no pixels): every kind in its turn."""
    for number, random in campaign.cases(short=len(KINDS)):
        kind, depth, interlaced, row_filter, extra = KINDS[
            number * 415 % len(KINDS)
        ]  # so that a few cases have something of every kind
        picture = draw_picture(kind, depth, extra, random)
        data = png(picture.pixels, kind, depth, random, interlaced=interlaced, row_filter=row_filter, before=picture.chunks)
        empty = interlaced and min(picture.pixels.shape[:2]) < 5  # there is a pass from the fifth on
        said = f"case {number}: colour type {kind}, {depth} bits, {extra}, filter {row_filter}, interlaced {interlaced}"
        yield f"{said}: {data.hex()}", picture, data, empty


def opencvs(data):
    """OpenCV's reading, RGB; turned as EXIF says."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def pillows(data):
    """Pillow's reading, RGB; as stored."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        image.info.pop("transparency", None)
        return np.asarray(image.convert("RGB"))


def refusal(read, *arguments):
    """The message of an InputError; empty where there is none."""
    try:
        read(*arguments)
    except InputError as error:
        return str(error)
    return ""


def test_every_kind_of_png(campaign, tmp_path):
    path = tmp_path / "image.png"
    clipped = transparent = empties = 0
    for case, picture, data, empty in pictures(campaign):
        path.write_bytes(data)
        assert decoding.check_image(path) == decoding.Header("PNG", picture.pixels.shape[:2]), case
        assert np.array_equal(decoding.decode_image(path, data), picture.rgb), case
        assert np.array_equal(decoding.decode_image(path, data, 1), picture.gray), case
        assert np.array_equal(opencvs(data), picture.rgb), case
        agrees = np.array_equal(pillows(data), picture.rgb)
        assert agrees or (picture.kind, picture.depth) == (GRAY, 16), case
        clipped += not agrees
        transparent += not picture.opaque
        empties += empty
    assert min(transparent, empties) > 0
    campaign.report(kinds=len(KINDS), transparent=transparent, with_empty_passes=empties, clipped_by_pillow_alone=clipped)


def test_every_kind_of_png_as_a_label(campaign):
    """Numbers as they stand in the file; in colours only where that was said, and no class's colour is transparent."""
    numbers = refused = 0
    for case, picture, data, _ in pictures(campaign):
        if picture.kind in (GRAY, PALETTE):
            values = decode_indices("label.png", data)
            assert np.array_equal(values, picture.pixels[..., 0]), case
            assert values.dtype == (np.uint16 if picture.depth == 16 else np.uint8), case
            numbers += 1
        else:
            assert "label.png: a label must hold one number per pixel" in refusal(decode_indices, "label.png", data), case
            refused += 1
    assert min(numbers, refused) > 0
    campaign.report(kinds=len(KINDS), true_values=numbers, refused_as_colours=refused)


def test_every_kind_of_png_as_a_label_in_colours(campaign):
    labelled = deep = transparent = 0
    for case, picture, data, _ in pictures(campaign):
        colours = np.unique(picture.rgb.reshape(-1, 3), axis=0).tolist()
        classes = [{"name": str(number), "color": colour} for number, colour in enumerate(colours)]
        space = LabelSpace.from_json({"classes": classes, "ignore_label": None, "from_colors": True})
        if picture.depth == 16:
            assert "16 bits per channel" in refusal(decode_label, "label.png", data, space), case
            deep += 1
        elif not picture.opaque:
            assert "transparent pixels" in refusal(decode_label, "label.png", data, space), case
            transparent += 1
        else:
            assert np.array_equal(space.colors[decode_label("label.png", data, space)], picture.rgb), case
            labelled += 1
    assert min(labelled, deep, transparent) > 0
    campaign.report(kinds=len(KINDS), labelled=labelled, refused_for_16_bits=deep, refused_as_transparent=transparent)


# -- EXIF --------------------------------------------------------------------------------------------------------------


def tiff_of(orientation, order):
    """EXIF's block: one entry, in either order of bytes."""
    start, packing = (b"MM\0*", ">") if order == "big" else (b"II*\0", "<")
    return start + struct.pack(f"{packing}IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def make_turned_files(orientation, order, pixels, random):
    """The same picture in every place where an orientation can stand: {place: (bytes, the pixels as stored)}."""
    tiff = tiff_of(orientation, order)
    block = b"Exif\0\0" + tiff
    app1 = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    packet = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    xmp = b"iTXt", b"XML:com.adobe.xmp" + bytes(5) + packet
    jpeg, second = encode(pixels, "JPEG", quality=95), Image.fromarray(255 - pixels)
    mpo = encode(Image.fromarray(pixels), "MPO", save_all=True, append_images=[second], exif=block, quality=95)
    files = {
        "PNG": png(pixels, RGB, 8, random, before=[(b"eXIf", tiff)]),
        "PNG, behind the pixels": png(pixels, RGB, 8, random, interlaced=True, after=[(b"eXIf", tiff)]),
        "PNG, in XMP": png(pixels, RGB, 8, random, before=[xmp]),
        "JPEG": jpeg[:2] + app1 + jpeg[2:],
        "MPO": mpo,
    }
    return {place: (data, pixels if "PNG" in place else pillows(data)) for place, data in files.items()}


def test_every_orientation(campaign, tmp_path):
    """Applied; of a pair refused, applied or ignored as chosen; of a label refused. 0 and 9 are no orientations."""
    path = tmp_path / "image"
    applied = refused = 0
    for number, random in campaign.cases(short=20):
        orientation, order = number % 10, ("big", "little")[number // 10 % 2]
        pixels = blobs(random.integers(1, 40, 2), random)
        turn = TURNS.get(orientation, TURNS[1])
        for place, (data, stored) in make_turned_files(orientation, order, pixels, random).items():
            case = f"case {number}: orientation {orientation}, {place}, {order}"
            path.write_bytes(data)
            upright = decoding.decode_image(path, data)
            assert np.array_equal(upright, turn(stored)), case
            assert decoding.check_image(path).size == upright.shape[:2], case
            assert np.array_equal(decoding.undo_orientation(upright, decoding.orientation_of(path, data)), stored), case
            applied += 1
            pairs = {exif: Sample("image", Source(path), exif=exif) for exif in ("error", "apply", "ignore")}
            assert np.array_equal(pairs["apply"].read_image(), upright), case
            assert np.array_equal(pairs["ignore"].read_image(), stored), case
            if 2 <= orientation <= 8:
                assert f"has EXIF rotation {orientation}" in refusal(pairs["error"].read_image), case
                refused += 1
            else:
                assert np.array_equal(pairs["error"].read_image(), stored), case
        label = random.integers(0, 5, (*pixels.shape[:2], 1))
        data = png(label, GRAY, 8, random, **{("before", "after")[number % 2]: [(b"eXIf", tiff_of(orientation, order))]})
        if 2 <= orientation <= 8:
            assert "the label has an EXIF rotation" in refusal(decode_indices, "label.png", data)
            refused += 1
        else:
            assert np.array_equal(decode_indices("label.png", data), label[..., 0])
    assert min(applied, refused) > 0
    campaign.report(files=applied, pairs_and_labels_refused=refused)


@pytest.mark.skipif(not features.check("webp"), reason="needs a Pillow that writes WebP")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_webp_is_refused(orientation, tmp_path):
    block = b"Exif\0\0" + tiff_of(orientation, "little")
    path = tmp_path / "image.jpg"
    path.write_bytes(encode(blobs((20, 30), np.random.default_rng(0)), "WEBP", exif=block))
    for read in (decoding.check_image, Sample("image", Source(path)).read_image):
        with pytest.raises(InputError, match=r"image\.jpg: not a PNG or JPEG image"):
            read(*([path] if read is decoding.check_image else []))


# -- JPEG --------------------------------------------------------------------------------------------------------------

MODES = ("L", "RGB", "CMYK", "YCCK")
SUBSAMPLINGS = (0, 1, 2)  # 4:4:4, 4:2:2, 4:2:0
WRITINGS = (
    {},
    {"progressive": True},
    {"optimize": True},
    {"restart_marker_blocks": 2},
    {"restart_marker_rows": 1},
    {"progressive": True, "restart_marker_rows": 1},
    {"comment": b"a comment \xff\xd9 that looks like an end"},
)
BEHIND = (b"", b"\0\0\r\n", b"a camera's own appendix")
JPEGS = list(itertools.product(MODES, SUBSAMPLINGS, WRITINGS, BEHIND))
NEAR = 2  # levels between two decoders of JPEG: the format leaves the rounding open
CUTS = 8  # of a file, beside those of a few bytes


def jpeg(pixels, mode, subsampling, writing, quality):
    """By Pillow's encoder."""
    picture = Image.fromarray(pixels).convert("CMYK" if mode == "YCCK" else mode)
    data = encode(picture, "JPEG", subsampling=subsampling, quality=quality, **writing)
    if mode == "YCCK":  # the same channels under another name: other colours, and as good a file
        name = data.index(b"Adobe")
        data = data[: name + 11] + b"\2" + data[name + 12 :]
    return data


def test_every_kind_of_jpeg(campaign, tmp_path):
    path = tmp_path / "image.jpg"
    worst = cuts = refused = 0
    used = set()
    for number, random in campaign.cases(short=84):
        kind = number * 5 % len(JPEGS)  # so that a few cases have something of every kind
        used.add(kind)
        mode, subsampling, writing, behind = JPEGS[kind]
        pixels = blobs(random.integers(1, 40, 2), random)
        whole = jpeg(pixels, mode, subsampling, writing, quality=int(random.integers(30, 100)))
        case = f"case {number}: {mode}, subsampling {subsampling}, {writing}, behind it {behind}: {whole.hex()}"
        path.write_bytes(whole + behind)
        own = decoding.decode_image(path, whole + behind)
        assert decoding.check_image(path) == decoding.Header("JPEG", pixels.shape[:2]), case
        assert own.shape == pixels.shape, case
        assert np.array_equal(own, pillows(whole)), case
        worst = max(worst, int(np.abs(own - opencvs(whole).astype(int)).max()))
        assert worst <= NEAR, case
        for left in {len(whole) - 1, len(whole) - 2, *random.integers(0, len(whole), CUTS).tolist()}:
            path.write_bytes(whole[:left])
            message = refusal(decoding.decode_image, path, whole[:left])
            assert bool(message) == bool(refusal(decoding.check_image, path)), f"{left} bytes of {case}"
            if message:
                assert "image.jpg: cannot be decoded: " in message or "not a PNG or JPEG image" in message, message
                refused += 1
            else:
                assert np.array_equal(decoding.decode_image(path, whole[:left]), own), f"{left} bytes of {case}"
            cuts += 1
    assert refused > 0.9 * cuts
    campaign.report(kinds=len(used), most_levels_from_opencv=worst, cut_off=cuts, cut_off_and_refused=refused)


def segment(marker, content):
    """One of a JPEG's."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def blocks_jpeg(levels, size, scans, restart, *, start=0xC0, depth=8):
    """A JPEG of 8x8 blocks of one level each.

    Args:
        levels: ``[components, rows, columns]`` of blocks; three components are RGB.
        size: (height, width).
        scans: the components of each scan.
        restart: blocks between two restart markers; 0 for none.
        start: the marker that begins the frame.
        depth: bits a sample, as its header says.
    """
    count = len(levels)
    table = bytes([8] + [1] * 63)  # so that a level is the constant coefficient
    constants = bytes([0, 0, 0, 12] + [0] * 12) + bytes(range(12))  # twelve codes of 4 bits
    end_of_block = bytes([1] + [0] * 15) + b"\0"  # one code: the bit 0
    parts = [
        segment(0xEE, b"Adobe\0\x64" + bytes(5)),  # components are RGB, not YCbCr
        segment(0xDB, b"\0" + table),
        segment(start, struct.pack(">BHHB", depth, *size, count) + b"".join(bytes([one, 0x11, 0]) for one in range(count))),
        segment(0xC4, b"\0" + constants),
        segment(0xC4, b"\x10" + end_of_block),
        segment(0xDD, struct.pack(">H", restart)) if restart else b"",
    ]
    for components in scans:
        named = b"".join(bytes([one, 0]) for one in components)
        parts.append(segment(0xDA, bytes([len(components)]) + named + b"\0\x3f\0"))
        blocks = np.stack([levels[one].ravel() for one in components], axis=1).astype(int) - 128
        apart = restart or len(blocks)
        for number, first in enumerate(range(0, len(blocks), apart)):
            if number:
                parts.append(bytes([0xFF, 0xD0 + (number - 1) % 8]))
            parts.append(entropy_encode(np.diff(blocks[first : first + apart], axis=0, prepend=0).ravel().tolist()))
    return b"\xff\xd8" + b"".join(parts) + b"\xff\xd9"


def entropy_encode(differences):
    """The constant coefficients' differences, each with nothing behind it."""
    bits = ""
    for difference in differences:
        length = abs(difference).bit_length()
        own = difference if difference > 0 else difference + 2**length - 1
        bits += f"{length:04b}" + (f"{own:0{length}b}" if length else "") + "0"
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")


def test_jpegs_of_known_pixels(campaign, tmp_path):
    """Several scans, in any order of components, and restart markers: exactly the pixels that were written."""
    path = tmp_path / "image.jpg"
    apart = restarted = 0
    for number, random in campaign.cases(short=150):
        count = (1, 3)[number % 2]
        size = tuple(int(side) for side in random.integers(1, 60, 2))
        levels = random.integers(0, 256, (count, -(-size[0] // 8), -(-size[1] // 8)))
        order = random.permutation(count).tolist()
        scans = [[one] for one in order] if random.random() < 0.5 else [list(range(count))]
        restart = int(random.integers(0, 5))
        data = blocks_jpeg(levels, size, scans, restart)
        case = f"case {number}: {size}, scans {scans}, restart {restart}: {data.hex()}"
        path.write_bytes(data)
        expected = np.kron(levels, np.ones((8, 8), int))[:, : size[0], : size[1]].transpose(1, 2, 0)
        assert decoding.check_image(path) == decoding.Header("JPEG", size), case
        assert np.array_equal(decoding.decode_image(path, data), np.broadcast_to(expected, (*size, 3))), case
        assert np.array_equal(opencvs(data), np.broadcast_to(expected, (*size, 3))), case
        apart += len(scans) > 1
        restarted += 0 < restart < levels[0].size
    assert min(apart, restarted) > 0
    campaign.report(of_several_scans=apart, with_restart_markers=restarted)


FRAMES = {"12 bits": (0xC1, 12), "lossless": (0xC3, 8), "hierarchical": (0xC5, 8), "lossless, arithmetic": (0xCB, 8)}


@pytest.mark.parametrize("kind", FRAMES)
def test_rare_jpegs_are_refused(kind, tmp_path):
    start, depth = FRAMES[kind]
    path = tmp_path / "image.jpg"
    path.write_bytes(blocks_jpeg(np.full((1, 2, 2), 100), (16, 16), [[0]], 0, start=start, depth=depth))
    with pytest.raises(InputError, match=r"image\.jpg: cannot be decoded: .*(rare kind, such as a JPEG of 12 bits|damaged)"):
        decoding.decode_image(path, path.read_bytes())
