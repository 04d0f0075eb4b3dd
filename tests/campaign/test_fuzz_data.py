"""Damaged images, labels, descriptions and lists of datasets, and folders of strange files.

What is accepted is judged by code that shares nothing with the readers: PNGs by :mod:`campaign.pngs`, which admits what the
specification does, lists and JSON by a few lines here. JPEG has no checksums, so that only its size can be judged.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import shutil
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from campaign import damage, isolated, mutations, pngs
from campaign.damage import Case, Format
from dense_resnet.errors import InputError
from dense_resnet.image_io import decoding, discovery
from segmentation.data.doctor import inspect
from segmentation.data.label_space import LabelClass, LabelSpace
from segmentation.data.layouts import open_dataset
from segmentation.data.samples import Sample
from segmentation.data.source import Source

pytestmark = pytest.mark.skipif(not isolated.HERE, reason="memory is limited as Linux does it")

SIZE = 9, 12
MAX_PIXELS = 10**6
MOST_FOLDERS = 2000
FEW = LabelSpace.from_json({"classes": [f"class {number}" for number in range(9)]})
MANY = LabelSpace(tuple(LabelClass(f"class {number}", (0, 0, 0)) for number in range(700)), 65535)
COLORS = LabelSpace.from_json({"classes": ["a", "b", "c", "d"], "from_colors": True})
BLACK = np.zeros((*SIZE, 3), np.uint8)


def plain(values: np.ndarray) -> tuple:
    """An array as what can be compared."""
    return values.shape, values.dtype.str, values.tobytes()


def array(found: tuple) -> np.ndarray:
    """The inverse."""
    shape, kind, data = found
    return np.frombuffer(data, kind).reshape(shape)


# -- images --------------------------------------------------------------------------------------------------------------


def make_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[decoding.EXIF_ORIENTATION] = orientation
    return exif


def make_pngs(place: Path) -> None:
    random = np.random.default_rng(0)
    for number, (kind, depth, interlaced) in enumerate(
        [
            (0, 1, 0),
            (0, 4, 1),
            (0, 8, 0),
            (0, 16, 0),
            (2, 8, 1),
            (2, 16, 0),
            (3, 4, 0),
            (3, 8, 1),
            (4, 8, 0),
            (6, 8, 0),
            (6, 16, 1),
        ]
    ):
        samples = random.integers(0, 2**depth, (*SIZE, pngs.SAMPLES[kind]))
        palette = [(b"PLTE", random.bytes(3 * 2**depth))] if kind == 3 else []
        (place / str(number)).mkdir()
        (place / str(number) / "a.png").write_bytes(pngs.png_of(samples, kind, depth, bool(interlaced), palette))
    (place / "x").mkdir()
    Image.fromarray(random.integers(0, 256, BLACK.shape, np.uint8)).save(place / "x" / "a.png", exif=make_exif(6))


def make_jpegs(place: Path) -> None:
    smooth = np.add.outer(np.arange(40), np.arange(50))[..., None] * np.array([3, 2, 1]) % 256
    picture = Image.fromarray(smooth.astype(np.uint8))
    variants = [
        {},
        {"progressive": True},
        {"exif": make_exif(8)},
        {"quality": 95, "subsampling": 0, "restart_marker_blocks": 2},
        {"optimize": True, "comment": b"x" * 300},
    ]
    for number, options in enumerate(variants):
        (place / str(number)).mkdir()
        picture.save(place / str(number) / "a.jpg", **options)
    for number, mode in enumerate(("L", "CMYK"), len(variants)):
        (place / str(number)).mkdir()
        picture.convert(mode).save(place / str(number) / "a.jpg")


def read_images(folder: Path) -> list:
    """As `extract` does: the check before any work, then the pixels."""
    found = []
    for image in discovery.find_images([str(folder)]):
        header = decoding.check_image(image.path, MAX_PIXELS)
        data = decoding.read_file(image.path)
        pixels = decoding.decode_image(image.path, data, max_pixels=MAX_PIXELS)
        found.append((header.size, decoding.orientation_of(image.path, data, MAX_PIXELS), plain(pixels)))
    return found


def judge_png(found: list, case: Case) -> str:
    [(size, orientation, pixels)] = found
    pixels = array(pixels)
    if size != pixels.shape[:2]:
        return f"the header said {size}, the pixels are {pixels.shape}"
    try:
        picture = pngs.decode(case.data)
    except (ValueError, pngs.zlib.error) as error:
        return f"silent success: it is no PNG: {error!r}"
    if orientation != (picture.orientation or orientation):
        return f"silent success: orientation {orientation}, and the file says {picture.orientation}"
    exact = orient_pixels(picture.rgb, orientation)
    if exact.shape != pixels.shape or np.abs(exact - pixels).max() >= 1:  # 16 bits are cut to 8, or rounded
        return "silent success: other pixels"
    return ""


def orient_pixels(pixels: np.ndarray, orientation: int) -> np.ndarray:
    turns = (0, 0, 0, 2, 2, 1, 3, 3, 1)  # quarters, against the clock
    mirrored = pixels[:, ::-1] if orientation in (2, 4, 5, 7) else pixels
    quarters = {4: 2, 5: 1, 7: 3}.get(orientation, turns[orientation] if 1 <= orientation <= 8 else 0)
    return np.rot90(mirrored, quarters)


def judge_jpeg(found: list, case: Case) -> str:
    [(size, orientation, pixels)] = found
    told = find_orientation(case.data)
    if orientation != (told or orientation):
        return f"silent success: orientation {orientation}, and the file says {told}"
    stored = frame_size(case.data)
    stored = stored[::-1] if orientation >= 5 else stored
    if not size == stored == pixels[0][:2]:
        return f"the header said {size}, {stored} is stored, the pixels are {pixels[0]}"
    return ""


def find_orientation(data: bytes) -> int | None:
    """The orientation in a JPEG's only block of EXIF, 1 without one; None where nobody can say."""
    mark = b"Exif\0\0"
    at = data.find(mark)
    if at < 0:
        return None if b"Exif" in data or b"rientation" in data else 1
    end = at - 2 + int.from_bytes(data[at - 2 : at], "big")
    is_sound = at == 6 or (data[2:4] == b"\xff\xe0" and at == 8 + int.from_bytes(data[4:6], "big"))  # first, or after JFIF's
    if not (is_sound and data[at - 4 : at - 2] == b"\xff\xe1" and data.count(b"Exif") == 1):
        return None
    return pngs.orientation_in(data[at + len(mark) : end])


def frame_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) in the frame header of a JPEG: https://www.w3.org/Graphics/JPEG/itu-t81.pdf."""
    at = 2
    while at + 9 < len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return struct.unpack_from(">HH", data, at + 5)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


# -- labels --------------------------------------------------------------------------------------------------------------


def make_labels(place: Path) -> None:
    random = np.random.default_rng(1)
    for number, (kind, depth, interlaced) in enumerate(
        [(0, 1, 0), (0, 2, 0), (0, 4, 0), (0, 4, 1), (0, 8, 0), (0, 8, 1), (3, 1, 0), (3, 2, 1), (3, 4, 0), (3, 8, 0)]
    ):
        samples = random.integers(0, min(2**depth, 9), (*SIZE, 1))
        palette = [(b"PLTE", random.bytes(3 * 2**depth))] if kind == 3 else []
        (place / str(number)).mkdir()
        (place / str(number) / "few.png").write_bytes(pngs.png_of(samples, kind, depth, bool(interlaced), palette))
    for number, depth in enumerate((8, 16, 16), 10):
        samples = random.integers(0, min(2**depth, 700), (*SIZE, 1))
        (place / str(number)).mkdir()
        (place / str(number) / "many.png").write_bytes(pngs.png_of(samples, 0, depth, number == 11))


def make_color_labels(place: Path) -> None:
    random = np.random.default_rng(2)
    colors = np.array([one.color for one in COLORS.classes])[random.integers(0, 4, SIZE)]
    indices = random.integers(0, 4, (*SIZE, 1))
    palette = np.array([one.color for one in COLORS.classes], np.uint8).tobytes()
    opaque = np.concatenate([colors, np.full((*SIZE, 1), 255)], axis=2)
    for number, data in enumerate(
        [
            pngs.png_of(colors, 2, 8),
            pngs.png_of(colors, 2, 8, interlaced=True),
            pngs.png_of(opaque, 6, 8),
            pngs.png_of(indices, 3, 2, others=[(b"PLTE", palette)]),
        ]
    ):
        (place / str(number)).mkdir()
        (place / str(number) / "colors.png").write_bytes(data)


SPACES = {"few.png": FEW, "many.png": MANY, "colors.png": COLORS}


def read_labels(folder: Path) -> list:
    """As every verb reads a sample's label."""
    paths = sorted(folder.iterdir())
    return [
        plain(Sample("a", Source(path), Source(path)).read_label(SPACES[path.name], MAX_PIXELS).astype(np.uint16))
        for path in paths
    ]


def judge_label(found: list, case: Case) -> str:
    [labels] = map(array, found)
    space = SPACES[case.file]
    try:
        picture = pngs.decode(case.data)
    except (ValueError, pngs.zlib.error) as error:
        return f"silent success: it is no PNG: {error!r}"
    if space.from_colors:
        palette = np.array([*[one.color for one in space.classes], space.ignore_color])
        exact = palette[np.where(labels == space.ignore_label, len(space.classes), labels)]
        right = picture.depth < 16 and exact.shape == picture.rgb.shape and (exact == picture.rgb).all()
    else:
        exact = picture.samples[..., 0]
        right = picture.kind in (0, 3) and exact.shape == labels.shape and (exact == labels).all()
        right &= bool(((labels < space.num_classes) | (labels == space.ignore_label)).all())
    if picture.orientation not in (1, None) or (space.from_colors and picture.transparent):
        return f"silent success: orientation {picture.orientation}, transparent: {picture.transparent}"
    return "" if right else "silent success: a wrong label"


# -- descriptions --------------------------------------------------------------------------------------------------------


def write_pairs(folder: Path, names: list[str]) -> None:
    for name in names:
        for kind in ("images", "labels"):
            path = folder / kind / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(BLACK[..., 0] if kind == "labels" else BLACK).save(path)


DESCRIPTIONS = (
    {"name": "mine", "classes": ["sky", {"name": "road", "color": [128, 64, 128]}, "car"], "ignore_label": 255},
    {"classes": ["a", "b"], "ignore_label": None, "mapping": {"0": 0, "255": 1, "17": 0}},
    {"name": "zero", "classes": [{"name": "é"}, "b", "c"], "reduce_zero_label": True},
    {"name": "painted", "classes": ["a", "b"], "from_colors": True, "ignore_color": [1, 2, 3]},
)


def make_descriptions(place: Path) -> None:
    for number, described in enumerate(DESCRIPTIONS):
        write_pairs(place / str(number), ["a"])
        (place / str(number) / "dataset.json").write_text(json.dumps(described, indent=1))


def read_description(folder: Path) -> tuple:
    dataset = open_dataset(folder)
    return dataset.name, dataset.space, [sample.name for sample in dataset.samples]


def judge_description(found: tuple, case: Case) -> str:
    name, space, samples = found
    try:
        value = strictly(case.data)
    except ValueError as error:
        return f"silent success: no JSON: {error}"
    mapping = value.get("mapping")
    if mapping is not None:
        if any(not re.fullmatch("0|[1-9][0-9]*", key, re.ASCII) for key in mapping):
            return f"silent success: {mapping}"
        mapping = {int(key): label for key, label in mapping.items()}
    classes = [one if isinstance(one, dict) else {"name": one} for one in value["classes"]]
    ignored = value.get("ignore_label", 255)
    if value.get("reduce_zero_label") is True:
        mapping = {0: ignored, ignored: ignored, **{number + 1: number for number in range(len(classes))}}
    if mapping is not None:
        mapping = sorted(mapping.items())
    said = (
        value.get("name", case.folder.name),
        [one["name"] for one in classes],
        [one.get("color", vocs_color(number)) for number, one in enumerate(classes)],
        ignored,
        mapping,
        value.get("from_colors", False),
        isinstance(value.get("reduce_zero_label", False), bool),
        value.get("ignore_color", [224, 224, 192]),
        set(value) - {"name", "classes", "mapping", "ignore_label", "reduce_zero_label", "from_colors", "ignore_color"},
    )
    read = (
        name,
        list(space.names),
        [list(one.color) for one in space.classes],
        space.ignore_label,
        None if space.mapping is None else sorted(space.mapping.items()),
        space.from_colors,
        True,
        list(space.ignore_color),
        set(),
    )
    return "" if repr(said) == repr(read) and samples == ["a"] else f"silent success: {read}"


def vocs_color(label: int) -> list[int]:
    """Of a class for which none is named: the label's bits in threes, the least in the highest place of red, green, blue."""
    return [sum((label >> 3 * place + channel & 1) << 7 - place for place in range(8)) for channel in range(3)]


def strictly(data: bytes):
    """JSON in which nothing is said twice, and which has no numbers that are none."""

    def only_once(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    def refuse(text):
        raise ValueError(text)

    try:
        return json.loads(data, object_pairs_hook=only_once, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested") from None


def make_label_maps(place: Path) -> None:
    for number, mapping in enumerate([{"7": 0, "8": 1, "11": 2, "0": 255}, {str(raw): raw % 3 for raw in range(20)}]):
        write_pairs(place / str(number), ["a"])
        (place / str(number) / "dataset.json").write_text(json.dumps(DESCRIPTIONS[0]))
        (place / str(number) / "map.json").write_text(json.dumps(mapping))


def read_label_map(folder: Path) -> dict:
    return dict(open_dataset(folder, label_map=folder / "map.json").space.mapping)


def judge_label_map(found: dict, case: Case) -> str:
    try:
        value = strictly(case.data)
    except ValueError as error:
        return f"silent success: no JSON: {error}"
    sound = all(re.fullmatch("0|[1-9][0-9]*", key, re.ASCII) for key in value)
    return (
        "" if sound and repr(found) == repr({int(key): label for key, label in value.items()}) else f"silent success: {found}"
    )


# -- lists ---------------------------------------------------------------------------------------------------------------

LISTED = ["a", "b", "more/a", "é"]


def make_lists(place: Path) -> None:
    write_pairs(place / "0", LISTED)
    (place / "0" / "images" / "list.txt").write_text("".join(f"{name}.png\n" for name in LISTED))
    write_pairs(place / "1", LISTED)
    (place / "1" / "images" / "list.txt").write_bytes(b"\xef\xbb\xbfmore/a.png\r\nb.png\r\n\r\na.png")


def read_list(folder: Path) -> list:
    return [(one.relative, str(one.path)) for one in discovery.find_images([str(folder / "images" / "list.txt")])]


def lines_of(data: bytes) -> list[str]:
    """Those with something in them, without what surrounds it."""
    lines = re.split(b"\r\n|\r|\n", data.removeprefix(b"\xef\xbb\xbf"))
    return [line for line in (line.decode("utf-8", "surrogateescape").strip() for line in lines) if line]


def judge_list(found: list, case: Case) -> str:
    listed = sorted({os.path.normpath(line) for line in lines_of(case.data)})
    expected = [(name, os.path.join(case.folder, "images", name)) for name in listed]
    right = [(name, os.path.normpath(path)) for name, path in sorted(found)] == expected
    return "" if right and all(".." not in name for name in listed) else f"silent success: {found}"


def make_voc(place: Path) -> None:
    for number, names in enumerate([LISTED, ["é", "b"]]):
        folder = place / str(number)
        write_pairs(folder, LISTED)
        (folder / "images").rename(folder / "JPEGImages")
        (folder / "labels").rename(folder / "SegmentationClass")
        for path in (folder / "JPEGImages").rglob("*.png"):
            path.rename(path.with_suffix(".jpg"))
        (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
        (folder / "dataset.json").write_text('{"classes": ["a", "b"]}')
        (folder / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(names) + "\n")


def read_voc(folder: Path) -> list:
    return [(one.name, str(one.image), str(one.label)) for one in open_dataset(folder, "train").samples]


def judge_voc(found: list, case: Case) -> str:
    expected = [
        (
            name,
            os.path.join(case.folder, "JPEGImages", f"{name}.jpg"),
            os.path.join(case.folder, "SegmentationClass", f"{name}.png"),
        )
        for name in lines_of(case.data)
    ]
    return same_files(found, expected)


def same_files(found: list, expected: list) -> str:
    """Whether these are the same files, in the same order, each once and within the folder."""
    normal = [[os.path.normpath(part) for part in one] for one in expected]
    right = [[os.path.normpath(part) for part in one] for one in found] == normal
    once = len({one[0] for one in found}) == len(found)
    return "" if right and once and all(".." not in part for one in expected for part in one) else f"silent success: {found}"


def make_csv(place: Path) -> None:
    texts = [
        "image,label\n" + "".join(f"images/{name}.png,labels/{name}.png\n" for name in LISTED),
        'label,note,image\nlabels/b.png,"x, y",images/b.png\nlabels/a.png,,images/a.png\n',
    ]
    for number, text in enumerate(texts):
        write_pairs(place / str(number), LISTED)
        (place / str(number) / "dataset.json").write_text(json.dumps(DESCRIPTIONS[0]))
        (place / str(number) / "list.csv").write_text(text)


def read_csv(folder: Path) -> list:
    return [(one.name, str(one.image), str(one.label)) for one in open_dataset(folder / "list.csv").samples]


def judge_csv(found: list, case: Case) -> str:
    text = case.data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    try:
        columns, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        return f"silent success: {error}"
    if columns.count("image") != 1 or columns.count("label") != 1 or columns.count("split") > 1:
        return f"silent success: {columns}"
    if beyond := [row for row in rows if "".join(row[len(columns) :]).strip()]:
        return f"silent success: {beyond}"
    expected = []
    for row in rows:
        image, label = ([*row, *[""] * len(columns)][columns.index(key)].strip() for key in ("image", "label"))
        expected.append((re.sub(r"(?i)\.(png|jpe?g)$", "", image), str(case.folder / image), str(case.folder / label)))
    return same_files(found, expected)


FORMATS = {
    "png": Format(make_pngs, read_images, judge_png, {"*": pngs.damage_chunks}, sees_all=True),
    "jpeg": Format(make_jpegs, read_images, judge_jpeg, {"*": None}, refused=0.1, sees_all=True),
    "labels": Format(make_labels, read_labels, judge_label, {"*": pngs.damage_chunks}, short=200, sees_all=True),
    "labels_in_colours": Format(
        make_color_labels, read_labels, judge_label, {"*": pngs.damage_chunks}, short=200, sees_all=True
    ),
    "dataset_json": Format(make_descriptions, read_description, judge_description, {"dataset.json": mutations.falsify_json}),
    "label_map": Format(make_label_maps, read_label_map, judge_label_map, {"map.json": mutations.falsify_json}),
    "image_list": Format(make_lists, read_list, judge_list, {"*/list.txt": mutations.falsify_list}),
    "voc_list": Format(make_voc, read_voc, judge_voc, {"*/train.txt": mutations.falsify_list}),
    "csv_list": Format(make_csv, read_csv, judge_csv, {"list.csv": mutations.falsify_list}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files(name, campaign, worker, tmp_path):
    damage.fuzz(FORMATS[name], campaign, worker, tmp_path)


# -- folders -------------------------------------------------------------------------------------------------------------

STRANGE = (
    "a\nb",
    "a\rb",
    "\udcff",
    "é",
    "e\u0301",
    " ",
    "  a ",
    "-rf",
    "*",
    "[b]",
    "a,b",
    '"',
    "~",
    "a.",
    "\x7f",
    "\u202e",
    "x" * 200,
)


def put(random: np.random.Generator, path: Path, good: Path) -> str:
    """Makes something at `path`; says what."""
    kind = str(random.choice(["file", "pipe", "socket", "loop", "gone", "zero", "tty", "folder", "link", "empty", "copy"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "socket":
            here = os.open(path.parent, os.O_RDONLY)
            with socket.socket(socket.AF_UNIX) as own:  # by a short way, for its path may have few bytes
                own.bind(f"/proc/self/fd/{here}/s")
            os.close(here)
            (path.parent / "s").rename(path)
        case "loop":
            path.symlink_to(path.name)
        case "gone":
            path.symlink_to("nowhere.png")
        case "zero" | "tty":
            path.symlink_to(f"/dev/{kind}")
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to("/etc/passwd")
        case "empty":
            path.touch()
        case _:
            path.write_bytes(good.read_bytes())
    return kind


def read_folder(folder: Path) -> tuple[int, list[str]]:
    """As `doctor` and `extract` see it: (good pairs, what is said of the others)."""
    said = []
    try:
        found = discovery.find_images([str(folder / "images")])
    except InputError as error:
        found = []
        said.append(str(error))
    for one in found:
        try:
            decoding.check_image(one.path, MAX_PIXELS)
        except InputError as error:
            said.append(str(error))
    datasets = [open_dataset(folder, strict=False)]
    report = inspect(datasets, MAX_PIXELS)
    said += [finding.message for finding in report.errors]
    return len(datasets[0].samples), said


def test_folders_of_strange_files(campaign, worker, tmp_path):
    """Pairs of which one or both are no files, or have names that nobody expects: none hangs, none is lost without a word."""
    good = tmp_path / "good"
    write_pairs(good, ["a"])
    (good / "dataset.json").write_text(json.dumps(DESCRIPTIONS[0]))
    worker.warm(read_folder, good)
    failures, kinds, told, cases = [], set(), 0, 0
    for number, random in itertools.islice(campaign.cases(short=60), MOST_FOLDERS):
        folder = tmp_path / f"case-{number}"
        write_pairs(folder, ["a"])
        (folder / "dataset.json").write_bytes((good / "dataset.json").read_bytes())
        strange = STRANGE[random.integers(len(STRANGE))]
        put_there = {}
        for kind in ("images", "labels"):
            source = good / kind / "a.png"
            where = folder / kind / f"{strange}.png"
            if random.integers(4):
                where.write_bytes(source.read_bytes())
                put_there[where] = "file"
            else:
                put_there[where] = put(random, where, source)
        if random.integers(8) == 0:
            put_there[folder / "dataset.json"] = put(random, folder / "dataset.json", good / "dataset.json")
        kinds.update(put_there.values())
        if worker.is_new:  # the last one died
            worker.warm(read_folder, good)
        outcome, found = worker.ask(read_folder, folder)
        sound = all(kind in ("file", "copy") for kind in put_there.values())
        if outcome == "returned":
            pairs, said = found
            if sound and not (pairs == 2 and not said):
                failures.append((number, put_there, found))
            lost = [path for path, kind in put_there.items() if kind not in ("file", "copy", "folder")]
            lost = [path for path in lost if not any(str(path) in message for message in said)]
            if lost:
                failures.append((number, put_there, "lost without a word", lost, said))
            told += bool(said)
        elif outcome != "refused" or sound:
            failures.append((number, put_there, outcome, found))
        else:
            told += 1
        shutil.rmtree(folder)
        cases += 1
    assert not failures, "\n".join(map(str, failures[:10]))
    assert told >= cases / 4
    campaign.report(cases=cases, kinds_of_files=len(kinds), told=told)
