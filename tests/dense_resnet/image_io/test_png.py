"""PNGs that are not whole: none is decoded, although every one of these passes for one with Pillow."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from campaign import pngs
from PIL import Image

from dense_resnet.errors import InputError
from dense_resnet.image_io import png
from dense_resnet.image_io.decoding import decode_image
from segmentation.data.label_files import decode_label
from segmentation.data.label_space import LabelSpace

SPACE = LabelSpace.from_json({"classes": ["a", "b", "c", "d"]})
SAMPLES = np.random.default_rng(0).integers(0, 4, (5, 7, 1))


def chunks(kind=0, depth=2):
    """A label's."""
    palette = [(b"PLTE", bytes(12))] if kind == 3 else []
    return pngs.chunks_of(pngs.png_of(SAMPLES, kind, depth, others=palette))


def repack(change):
    """The label with other bytes before compression."""
    header, (_, content), end = chunks()
    return pngs.file_of([header, (b"IDAT", zlib.compress(change(zlib.decompress(content)))), end])


def header_of(depth):
    return b"IHDR", struct.pack(">IIBBBBB", 7, 5, depth, 0, 0, 0, 0)


def frame(*rectangle, number=0):
    """Where a picture of an animation goes: width, height, x, y."""
    return b"fcTL", struct.pack(">IIIIIHHBB", number, *rectangle, 1, 10, 0, 0)


def animation_chunks(*rectangle):
    return [(b"acTL", struct.pack(">II", 1, 0)), frame(*rectangle)]


PARTS = [(7, 1, 0, 0), (7, 3, 0, 2), (5, 5, 2, 0), (6, 4, 1, 1)]  # of the label
UPRIGHT = b"eXIf", b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, 1, 0, 0)

NOT_WHOLE = {
    "a second header": pngs.file_of([header_of(8), *chunks()]),
    "something before the header": pngs.file_of([(b"tEXt", b"a\0bcdefghijklmnopqr\2\0z"), *chunks()]),
    "rows missing": repack(lambda rows: rows[:-6]),
    "the checksum of the compressed bytes": pngs.file_of(
        [(name, content[:-1] + bytes([content[-1] ^ 1]) if name == b"IDAT" else content) for name, content in chunks()]
    ),
    "no palette": pngs.file_of([one for one in chunks(3) if one[0] != b"PLTE"]),
    "two palettes": pngs.file_of([chunks(3)[0], (b"PLTE", bytes(6)), *chunks(3)[1:]]),
    "pixels in two places": pngs.file_of(
        [header_of(2), (b"IDAT", chunks()[1][1][:9]), (b"tEXt", b"a\0b"), (b"IDAT", chunks()[1][1][9:]), (b"IEND", b"")]
    ),
    "an unknown chunk that is needed": pngs.file_of([header_of(2), (b"CgBI", bytes(4)), *chunks()[1:]]),
    "two blocks of EXIF": pngs.png_of(SAMPLES, 0, 2, others=[UPRIGHT, UPRIGHT]),
    "a second block of EXIF behind the pixels": pngs.file_of([header_of(2), UPRIGHT, chunks()[1], UPRIGHT, (b"IEND", b"")]),
    "a palette of nothing": pngs.png_of(SAMPLES, 3, 2, others=[(b"PLTE", b"")]),
    "a palette too long": pngs.png_of(SAMPLES, 0, 2, others=[(b"PLTE", bytes(771))]),
    **{f"a chunk named {name}": pngs.png_of(SAMPLES, 0, 2, others=[(name, b"a")]) for name in (b"te1t", b"t_xt")},
    **{f"a frame of {part}": pngs.png_of(SAMPLES, 0, 2, others=[frame(*part)]) for part in PARTS},
    **{f"an animation's frame of {part}": pngs.png_of(SAMPLES, 0, 2, others=animation_chunks(*part)) for part in PARTS},
    "a cut end": pngs.file_of(chunks())[:-5],
}


def test_pictures_of_iphones_tools_are_named():
    with pytest.raises(ValueError, match="Apple's variant for iPhones"):
        png.check(pngs.file_of([(b"CgBI", bytes(4)), *chunks()]))


@pytest.mark.parametrize("name", NOT_WHOLE)
def test_incomplete_pngs_are_refused_as_labels_and_images(name):
    for decode in (lambda data: decode_label("a.png", data, SPACE), lambda data: decode_image(Path("a.png"), data)):
        with pytest.raises(InputError, match=r"^a.png: cannot be decoded: "):
            decode(NOT_WHOLE[name])


@pytest.mark.parametrize("others", [[frame(7, 5, 0, 0)], animation_chunks(7, 5, 0, 0)])
def test_a_frame_that_is_all_of_the_picture_changes_nothing(others):
    data = pngs.png_of(SAMPLES, 0, 2, others=others)
    assert (decode_label("a.png", data, SPACE) == SAMPLES[..., 0]).all()
    assert (decode_image(Path("a.png"), data, 1) == 85 * SAMPLES).all()
    later = [*pngs.chunks_of(data)[:-1], frame(2, 2, 1, 1, number=1), (b"fdAT", b"\0\0\0\2abc"), (b"IEND", b"")]
    assert (decode_label("a.png", pngs.file_of(later), SPACE) == SAMPLES[..., 0]).all()


def test_a_flipped_bit_in_an_image_is_found_wherever_it_is():
    data = pngs.png_of(np.random.default_rng(0).integers(0, 256, (5, 7, 3)), 2, 8)
    for place in range(len(data)):
        damaged = data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
        with pytest.raises(InputError):
            decode_image(Path("a.png"), damaged)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "depth"), [(kind, depth) for kind, depths in pngs.DEPTHS.items() for depth in depths])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (9, 12)])
def test_complete_pngs_of_every_kind_are_accepted(kind, depth, interlaced, size):
    samples = np.random.default_rng(0).integers(0, 2**depth, (*size, pngs.SAMPLES[kind]))
    palette = [(b"PLTE", bytes(3 * 2**depth))] if kind == 3 else []
    data = pngs.png_of(samples, kind, depth, interlaced, palette)
    png.check(data)
    png.check(data + b"what follows the end")
    assert (pngs.decode(data).samples == samples).all()


def test_pngs_of_pillow_and_opencv_are_accepted(photographs):
    import cv2

    for pixels in photographs.values():
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        png.check(stream.getvalue())
        png.check(cv2.imencode(".png", pixels)[1].tobytes())


def test_pixels_that_unpack_to_more_than_they_should_take_no_memory():
    with pytest.raises(ValueError, match="its pixels need 15 bytes"):
        png.check(repack(lambda rows: rows + bytes(2**26)))
    png.check(repack(lambda rows: rows + bytes(9)))  # which does no harm
