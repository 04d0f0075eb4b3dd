"""Finding and reading images: FAULTS' rows on image files, and pixels against OpenCV's own reader."""

import os
import re
import shutil
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from campaign import pngs
from helpers import ROOT
from helpers.datasets import TURNS, encode
from PIL import Image

from dense_resnet.errors import InputError
from dense_resnet.image_io import bit_depth, decoding, discovery
from dense_resnet.inference import canvas
from segmentation.data.label_files import decode_label
from segmentation.data.label_tables import VOC


def write_file(folder, name, data):
    """A file with `data`."""
    path = folder / name
    path.write_bytes(data)
    return path


def decode(data, channels=3):
    """What decode_image makes of `data`."""
    return decoding.decode_image("image", data, channels)


def test_png_and_jpeg_as_opencv_reads_them(photographs):
    for name in ("cat", "rocket"):
        png = encode(photographs[name])
        assert np.array_equal(decode(png), cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])
        jpeg = encode(photographs[name], "JPEG", quality=90)
        theirs = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
        assert np.abs(decode(jpeg).astype(int) - theirs).max() <= 3


def test_every_kind_of_pixel(photographs):
    rgb = photographs["cat"]
    grey = rgb.mean(axis=2).astype(np.uint8)
    assert np.array_equal(decode(encode(grey)), np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(decode(encode(grey), 1), grey[..., None])
    assert np.array_equal(decode(encode(np.dstack([rgb, grey]))), rgb)  # alpha is dropped
    assert np.array_equal(decode(encode(np.dstack([grey, grey]))), np.repeat(grey[..., None], 3, axis=2))
    assert np.array_equal(decode(encode(grey.astype(np.uint16) * 257)), np.repeat(grey[..., None], 3, axis=2))
    palette = Image.fromarray(rgb).quantize(16)
    assert np.array_equal(decode(encode(palette)), np.asarray(palette.convert("RGB")))
    bits = Image.fromarray(grey > 128)
    assert set(np.unique(decode(encode(bits)))) == {0, 255}
    cmyk = encode(Image.fromarray(rgb).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode(cmyk).astype(int) - rgb).mean() < 5
    assert np.array_equal(decode(encode(rgb, "JPEG", progressive=True)), decode(encode(rgb, "JPEG")))


def test_16_bits_are_those_of_any_other_reader():
    """The high ones, in grey as in colours."""
    grey = np.arange(0, 2**16, 7, dtype=np.uint16).reshape(-1, 9363 // 3)
    data = encode(grey)
    own = decode(data)
    assert np.array_equal(own, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    assert np.array_equal(own, decode(cv2.imencode(".png", np.dstack([grey] * 3))[1].tobytes()))


@pytest.mark.parametrize("clear", [bytes([0, 100]), 1])
def test_a_palettes_alpha_is_dropped_without_a_warning(clear):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette(bytes([10, 20, 30, 40, 50, 60, 70, 80, 90]))
    data = encode(image, transparency=clear)
    assert b"tRNS" in data
    assert decode(data).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]


@pytest.mark.parametrize("orientation", TURNS)
def test_exif_rotation_is_applied(orientation, tmp_path):
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(pixels, exif=exif)
    upright = decode(data)
    assert np.array_equal(upright, TURNS[orientation](pixels))
    assert decoding.check_image(write_file(tmp_path, "image.png", data)).size == upright.shape[:2]


@pytest.mark.parametrize("orientation", [0, 9])
def test_invalid_orientations_are_ignored(orientation, tmp_path):
    """Some cameras write 0; 9 would be at least 5, so sideways."""
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(pixels, exif=exif)
    assert decoding.orientation_of("image", data) == 1
    assert np.array_equal(decode(data), pixels)
    assert decoding.check_image(write_file(tmp_path, "image.png", data)).size == (4, 6)


def block(tag, value):
    """A block of EXIF with one entry."""
    return b"eXIf", b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, tag, 3, 1, value, 0, 0)


ORIENTATION, RESOLUTION = 0x0112, 0x011A
XMP = b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<rdf:Description tiff:Orientation="6"/>'


@pytest.mark.parametrize(
    ("before", "behind"),
    [
        ([], [block(ORIENTATION, 6)]),
        ([], [XMP]),
        ([block(RESOLUTION, 72)], [XMP]),
        ([block(RESOLUTION, 72), XMP], []),
    ],
)
def test_an_orientation_behind_the_pixels(before, behind, tmp_path):
    """The check before a job, the pixels and whoever asks for the orientation agree; a label is refused."""

    def png_of(samples, kind):
        header, pixels, end = pngs.chunks_of(pngs.png_of(samples, kind, 8))
        return pngs.file_of([header, *before, pixels, *behind, end])

    pixels = np.arange(18).reshape(2, 3, 3)
    data = png_of(pixels, 2)
    assert decoding.orientation_of("image", data) == 6
    assert decoding.check_image(write_file(tmp_path, "image.png", data)).size == (3, 2)
    assert np.array_equal(decode(data), TURNS[6](pixels))
    with pytest.raises(InputError, match="the label has an EXIF rotation"):
        decode_label("label.png", png_of(pixels[..., :1], 0), VOC)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_found_before_the_job(kind, keep, tmp_path, photographs):
    data = encode(photographs["cat"], kind)
    path = write_file(tmp_path, "image", data[: int(len(data) * keep)])
    with pytest.raises(InputError, match=re.escape(str(path)) + ": cannot be decoded: .*truncated or damaged"):
        decoding.check_image(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_trailing_bytes_are_harmless(kind, tmp_path, photographs):
    data = encode(photographs["cat"], kind)
    assert decoding.check_image(write_file(tmp_path, "image", data + b"\0\0\r\n")).size == (300, 451)
    assert decoding.check_image(write_file(tmp_path, "image", data + b"a camera's own appendix")).format == kind


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a" + bytes(50), b"BM" + bytes(80), b"RIFF1234WEBPVP8 " + bytes(40), b"%PDF-1.4", b"<svg></svg>"]
)
def test_other_formats_are_refused_by_their_first_bytes(data, tmp_path):
    with pytest.raises(InputError, match=r"picture\.jpg: not a PNG or JPEG image \((its first bytes are|this is) "):
        decoding.check_image(write_file(tmp_path, "picture.jpg", data))


def test_the_extension_does_not_decide_the_format(tmp_path, photographs):
    assert decoding.check_image(write_file(tmp_path, "image.png", encode(photographs["cat"], "JPEG"))).format == "JPEG"


def bomb(width, height):
    """A PNG whose header promises more than it holds."""
    chunk = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def part(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", chunk) + part(b"IDAT", zlib.compress(bytes(1000))) + part(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_is_refused_before_decoding(side, tmp_path):
    with pytest.raises(InputError, match=r"pixels\. If that is intended, raise --max-pixels"):
        decoding.check_image(write_file(tmp_path, "bomb.png", bomb(side, side)))
    with pytest.raises(InputError, match="more than 1,000 pixels"):
        decoding.check_image(write_file(tmp_path, "small.png", encode(np.zeros((40, 40, 3), np.uint8))), max_pixels=1000)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_damaged_exif_does_not_matter(tmp_path, photographs):
    data = encode(photographs["cat"], "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert decoding.check_image(write_file(tmp_path, "image.jpg", data)).size == (300, 451)
    assert decode(data).shape == (300, 451, 3)


def test_the_first_frame_of_an_mpo_is_read(photographs, tmp_path):
    """MPO, as many telephones write: the first frame counts."""
    one, two = (Image.fromarray(photographs[name]) for name in ("cat", "coffee"))
    data = encode(one, "MPO", save_all=True, append_images=[two], quality=95)
    assert decoding.check_image(write_file(tmp_path, "image.jpg", data)) == decoding.Header("JPEG", (300, 451))
    assert np.abs(decode(data).astype(int) - photographs["cat"]).mean() < 3


def of_scans(count, **options):
    """A progressive JPEG whose last scan is there `count` times more."""
    data = encode(np.full((40, 40), 128, np.uint8), "JPEG", progressive=True, **options)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def test_a_jpeg_of_very_many_scans_is_refused_before_decoding(tmp_path):
    few, many = of_scans(90), of_scans(100)
    assert decoding.check_image(write_file(tmp_path, "few.jpg", few)).size == (40, 40)
    assert np.array_equal(decode(few), decode(of_scans(0)))
    for data in (many, many.replace(b"\xff\xda", b"\xff\xff\xda"), many.replace(b"\xff\xda", b"\xff\xfe\0\4\xff\xd9\xff\xda")):
        path = write_file(tmp_path, "many.jpg", data)
        for read in (decoding.check_image, lambda path: decoding.decode_image(path, path.read_bytes())):
            with pytest.raises(InputError, match=r"many\.jpg: a JPEG of more than 100 scans.* Save it again"):
                read(path)


def test_only_an_images_own_scans_count(tmp_path):
    """Not those of a preview in EXIF, nor what stands behind the end."""
    data = of_scans(50, exif=b"Exif\0\0" + b"\xff\xda\0\2" * 60) + b"\0\2" + b"\xff\xda\0\2" * 200 + b"\xff\xd9"
    assert decoding.check_image(write_file(tmp_path, "image.jpg", data)).size == (40, 40)
    assert decode(data).shape == (40, 40, 3)


def test_a_header_that_is_cut_off(tmp_path, photographs):
    with pytest.raises(InputError, match="its header is truncated or damaged"):
        decoding.check_image(write_file(tmp_path, "image.jpg", encode(photographs["cat"], "JPEG")[:20]))


def test_a_jpeg_of_12_bits_is_named(tmp_path, photographs):
    data = bytearray(encode(photographs["cat"], "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 1], data[frame + 4] = 0xC1, 12
    with pytest.raises(InputError, match="or of a rare kind, such as a JPEG of 12 bits"):
        decoding.check_image(write_file(tmp_path, "image.jpg", data))


# -- finding ----------------------------------------------------------------------------------------------------------


def relative(found):
    """The names only."""
    return [image.relative for image in found]


def test_folders_files_globs_and_lists(photograph_folder, tmp_path):
    everything = ["alpha.PNG", "cat.jpg", "grey.jpg", "large.jpeg", "more/cat.jpg", "portrait.png"]
    assert relative(discovery.find_images([str(photograph_folder)])) == everything
    assert relative(discovery.find_images([str(photograph_folder / "**" / "*.jpg")])) == ["cat.jpg", "grey.jpg", "more/cat.jpg"]
    assert relative(discovery.find_images([str(photograph_folder / "more" / "cat.jpg")])) == ["cat.jpg"]
    assert relative(discovery.find_images([str(photograph_folder / name) for name in everything[:2]])) == everything[:2]
    listing = photograph_folder / "list.txt"
    listing.write_bytes(b"\xef\xbb\xbfmore/cat.jpg\r\n\r\ngrey.jpg\r\n")  # as Windows writes it
    assert relative(discovery.find_images([str(listing)])) == ["grey.jpg", "more/cat.jpg"]
    listing.unlink()


def test_one_image_under_two_names_is_read_once(photograph_folder):
    twice = discovery.find_images([str(photograph_folder), str(photograph_folder / "cat.jpg")])
    assert relative(twice).count("cat.jpg") == 1


def test_names_never_lead_out_of_the_output(photograph_folder, monkeypatch):
    monkeypatch.chdir(photograph_folder / "more")
    assert relative(discovery.find_images(["../cat.jpg", "cat.jpg"])) == ["cat.jpg", "more/cat.jpg"]


def test_an_output_inside_the_folder_is_not_searched(photograph_folder, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(photograph_folder, folder)
    (folder / "features").mkdir()
    shutil.copy(folder / "cat.jpg", folder / "features" / "cat.jpg.alignment.png")
    assert len(discovery.find_images([str(folder)])) == 7
    assert len(discovery.find_images([str(folder)], without=folder / "features")) == 6


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(photograph_folder, monkeypatch):
    right = decoding.os.scandir

    def scandir(path):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return right(path)

    monkeypatch.setattr(decoding.os, "scandir", scandir)
    with pytest.raises(InputError, match=r"more: cannot be read: Permission denied"):
        discovery.find_images([str(photograph_folder)])


def test_outputs_never_overwrite_each_other(photograph_folder):
    with pytest.raises(InputError, match=r"would both be named cat\.jpg"):
        discovery.find_images([str(photograph_folder), str(photograph_folder / "more")])


@pytest.mark.parametrize("line", ["/etc/passwd", "../secret.jpg", "more/../../secret.jpg", "a\0b.jpg"])
def test_lists_stay_inside_their_folder(line, photograph_folder):
    listing = photograph_folder / "list.txt"
    listing.write_text(f"cat.jpg\n{line}\nnowhere.jpg\n")
    try:
        with pytest.raises(InputError, match=r"2 bad lines: line 2: .* is not inside the list's folder; line 3: no such file"):
            discovery.find_images([str(listing)])
    finally:
        listing.unlink()


def test_sources_without_images_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        discovery.find_images([str(tmp_path / "nowhere")])
    with pytest.raises(InputError, match="the folder contains no image"):
        discovery.find_images([str(tmp_path)])
    with pytest.raises(InputError, match="no file matches this pattern"):
        discovery.find_images([str(tmp_path / "*.jpg")])
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(InputError, match="the list is empty"):
        discovery.find_images([str(tmp_path / "list.txt")])


@pytest.mark.parametrize(
    ("original", "size", "padding"),
    [
        ((512, 512), (512, 512), (1, 1)),
        ((300, 451), (300, 451), (213, 62)),
        ((1000, 600), (513, 308), (0, 205)),
        ((1, 2000), (1, 513), (512, 0)),
        ((513, 513), (513, 513), (0, 0)),
    ],
)
def test_placement_shrinks_to_the_canvas_and_pads(original, size, padding):
    place = canvas.placement(original, 513)
    assert (place.size, place.padding) == (size, padding)
    points = np.array([[0.0, 0.0], [original[1] - 1, original[0] - 1]])
    np.testing.assert_allclose(place.to_original(place.to_canvas(points)), points, atol=1e-9)


def test_resizing_keeps_places():
    """A bright spot's centre of mass moves as the placement says."""
    pixels = np.zeros((1000, 800, 3), np.uint8)
    pixels[640:660, 220:260] = 255
    place = canvas.placement((1000, 800), 513)
    small = canvas.resize(pixels, place.size)[..., 0].astype(float)
    y, x = (np.arange(side) for side in place.size)
    centre = (small.sum(0) @ x / small.sum(), small.sum(1) @ y / small.sum())
    np.testing.assert_allclose(place.to_canvas(np.array([[239.5, 649.5]]))[0], centre, atol=0.05)


def test_broken_links_loops_and_pipes_are_reported_without_waiting(tmp_path):
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(tmp_path / "pipe.png")
    found = discovery.find_images([str(tmp_path)], without=tmp_path / "out")
    assert [image.relative for image in found] == ["gone.png", "loop.jpg", "pipe.png"]
    for image, why in zip(found, ("No such file", "Too many levels", "it is not a file"), strict=True):
        for read in (decoding.check_image, decoding.read_file):
            with pytest.raises(InputError, match=f"{image.relative}: cannot be read: {why}"):
                read(image.path)


def test_a_listed_name_that_no_file_can_have(tmp_path):
    (tmp_path / "list.txt").write_text("x" * 300)
    with pytest.raises(InputError, match="list.txt: 1 bad line: line 1: no such file 'xxx"):
        discovery.find_images([str(tmp_path / "list.txt")])


def test_leftovers_of_failed_downloads_are_identified(tmp_path):
    path = tmp_path / "a.png"
    for content, message in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", r"git-lfs: `git lfs pull` fetches the file"),
        (b"<html><head><title>404 Not Found</title>", r"text that begins '<html>.*a failed download\?"),
        (b"\x1f\x8b" + bytes(9), "a gzip archive .unpack it first"),
        (b"", "an empty file"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"a\.png: not a PNG or JPEG image \(this is .*{message}"):
            decoding.check_image(path)


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    (tmp_path / "a.WEBP").write_bytes(b"RIFF")
    (tmp_path / "b.tif").write_bytes(b"II*")
    with pytest.raises(InputError, match=r"no image \(searched for .*\)\. It contains files of other types \(\.tif, \.webp\)"):
        discovery.find_images([str(tmp_path)])


def test_pictures_of_other_formats_are_left_out_and_reported(tmp_path):
    for name in ("a.png", "b.webp", "c.WEBP", "more/d.tif", "Thumbs.db", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    notes = []
    assert [image.relative for image in discovery.find_images([str(tmp_path)], note=notes.append)] == ["a.png"]
    (note,) = notes
    assert note.startswith(f"{tmp_path}: other pictures are ignored (1 .tif, 2 .webp): only PNG and JPEG are read")
    discovery.find_images([str(tmp_path / "a.png")], note=notes.append)
    assert len(notes) == 1


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3), (4, 6, 4)])
@pytest.mark.parametrize(
    ("brightest", "said"),
    [
        (
            4095,
            "values 0 to 4095 of 65535; read as value / 256, which is 0 to 15 of 255: almost black. Save with 8 bits, such as",
        ),
        (255, "values 0 to 255 of 65535; read as value / 256, which is 0 to 0 of 255: almost black."),
        (16383, "values 0 to 16383 of 65535; read as value / 256, which is 0 to 63 of 255: dark."),
        (65535, "values 0 to 65535 of 65535; read as value / 256, which is 0 to 255 of 255."),
    ],
)
def test_16_bit_images_are_reported_with_their_range(brightest, said, shape, tmp_path):
    pixels = np.linspace(0, brightest, int(np.prod(shape))).astype(np.uint16).reshape(shape)
    if len(shape) == 3:
        pixels[-1, -1, 2] = brightest
        pixels[..., 3:] = 65535  # alpha is dropped
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    (tmp_path / "c.png").write_bytes(encode(np.full((4, 6), 255, np.uint8)))
    (tmp_path / "d.jpg").write_bytes(encode(np.full((4, 6), 255, np.uint8), "JPEG"))
    found = discovery.find_images([str(tmp_path)])
    deep = bit_depth.find_deep(found)
    assert str(deep).startswith(f"{tmp_path / 'a.png'} and 1 other image: 16-bit, with {said}")
    assert deep.are_dark == (brightest < 65535)
    decoded = decoding.decode_image(found[0].path, found[0].read())
    assert (decoded.min(), decoded.max()) == (deep.low >> 8, deep.high >> 8)
    assert bit_depth.find_deep(found[2:]) is None


def test_the_range_of_many_images_of_16_bits_is_sampled(tmp_path):
    for number in range(40):
        pixels = np.full((2, 2), number, np.uint16)
        (tmp_path / f"{number:02}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    found = discovery.find_images([str(tmp_path)])
    found[0].path.write_bytes(found[0].read()[:40])  # decoding it says what is wrong
    found[1].path.unlink()
    deep = bit_depth.find_deep(found)
    assert str(deep).startswith(f"{found[0].path} and 38 other images: 16-bit, with values 4 to ")
    assert "in the 12 looked at" in str(deep)  # every third of 39, without the first, which cannot be decoded
    assert bit_depth.find_deep(found[:2]) is None


def test_hidden_files_and_folders_are_left_out_and_counted(tmp_path):
    hidden = ("._a.png", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/more/._b.png", "more/@eaDir/b.jpg", "more/.c.jpg")
    for name in ("a.png", "more/b.jpg", ".DS_Store", "Thumbs.db", *hidden):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    notes = []
    assert relative(discovery.find_images([str(tmp_path)], note=notes.append)) == ["a.png", "more/b.jpg"]
    named = "._a.png, .ipynb_checkpoints, __MACOSX, …"
    assert notes == [f"{tmp_path}: hidden files and folders are ignored (5: {named})."]
    (tmp_path / "a.png").unlink()
    shutil.rmtree(tmp_path / "more")
    with pytest.raises(InputError, match=r"no image .* hidden files and folders are ignored \(3: \._a\.png, "):
        discovery.find_images([str(tmp_path)])
    asked = [str(tmp_path / ".ipynb_checkpoints"), str(tmp_path / "._a.png")]  # what is named itself is meant
    assert relative(discovery.find_images(asked)) == ["._a.png", "a-checkpoint.png"]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for name in ("images/a.png", "elsewhere/b.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "images" / "city").symlink_to("../elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to("../images")
    found = [image.relative for image in discovery.find_images([str(tmp_path / "images")])]
    assert found == ["a.png", "city/b.png"]


def test_images_that_all_lie_where_results_go(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"all its images are in .*, where results go\. Choose another --out"):
        discovery.find_images([str(tmp_path)], without=tmp_path)


def test_an_image_somewhat_too_large_is_refused_without_a_warning(tmp_path):
    Image.fromarray(np.zeros((30, 50, 3), np.uint8)).save(tmp_path / "a.png")
    code = (
        "import sys, pathlib; from dense_resnet.image_io import decoding; from tools import cli, describe\n"
        "describe.main = lambda args: decoding.check_image(pathlib.Path(sys.argv[1]), 1000)\n"
        "cli.main(['describe', 'resnet_v1_18'])"
    )
    command = [sys.executable, "-c", code, tmp_path / "a.png"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stderr.startswith(f"error: {tmp_path / 'a.png'}: 50x30 is more than 1,000 pixels")
    assert result.stderr.count("\n") == 1


def test_a_folder_in_an_images_place_keeps_nothing_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(InputError, match="it is not a file"):
            decoding.read_file(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
