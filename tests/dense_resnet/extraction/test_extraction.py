"""Extraction: shapes and maps, bad images, kill and resume, shards, and what stands in the folder already."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import ROOT
from helpers.folders import contents, wait_for
from helpers.networks import STRIDE_8_PLAN, weights_of

import dense_resnet as dr
from dense_resnet.extraction.extract import Extraction
from dense_resnet.extraction.settings import Settings
from dense_resnet.image_io import decoding, discovery
from dense_resnet.inference.canvas import placement, resize
from dense_resnet.jobs.journal import Journal
from dense_resnet.verification import laws

SMALL = Settings(size=129)


def extraction_of(backbone, out, settings, **options):
    """By the slim graph."""
    return Extraction(backbone.runner("exact", settings.layers), out, settings, **options)


@pytest.fixture(scope="module")
def backbone():
    """A tiny network at stride 8."""
    return laws.backbone_with(STRIDE_8_PLAN, weights_of(STRIDE_8_PLAN))


@pytest.fixture
def found(photograph_folder):
    """The photographs."""
    return discovery.find_images([str(photograph_folder)])


def lines(folder, name="manifest.jsonl"):
    """The manifest, by path."""
    return {record["path"]: record for record in map(json.loads, (folder / name).read_text().splitlines())}


def test_features_and_manifest_are_written(backbone, found, tmp_path):
    outcome = extraction_of(backbone, tmp_path, Settings(size=129, layers=(4, 8))).run(found)
    assert (outcome.written, outcome.total, outcome.failed, outcome.stopped) == (6, 6, (), False)
    manifest = lines(tmp_path)
    assert list(manifest) == [image.relative for image in found]
    for image in found:
        own = dr.read_features(tmp_path / f"{image.relative}.safetensors")
        pixels = decoding.decode_image(image.path, image.path.read_bytes())
        place = placement(pixels.shape[:2], 129)
        assert own.placement == place
        assert {stride: values.shape for stride, values in own.maps.items()} == {4: (33, 33, 8), 8: (17, 17, 12)}
        canvas = np.zeros((1, 129, 129, 3), np.float32)
        canvas[0, : place.size[0], : place.size[1]] = resize(pixels, place.size) / np.float32(127.5) - 1
        assert laws.relative_error(own.maps[8], backbone(canvas)[0]) <= 1e-4
        record = manifest[image.relative]
        assert record["status"] == "ok"
        assert record["sha256"] == hashlib.sha256(image.path.read_bytes()).hexdigest()
        assert record["original_size"] == list(pixels.shape[:2])
        assert record["scale"] == list(place.scale)
        assert record["padding"] == list(place.padding)
        assert (record["stride"], record["dtype"]) == ([4, 8], "float32")


def test_sampled_features_belong_to_their_pixel(backbone, photographs, tmp_path):
    """The same photograph, shifted by one cell, has the same features one cell further on."""
    from PIL import Image

    pixels = photographs["astronaut"][:120, :120]
    for name, shift in (("a.png", 0), ("b.png", 8)):
        shifted = np.full((129, 129, 3), 127, np.uint8)
        shifted[shift : shift + 120, shift : shift + 120] = pixels
        Image.fromarray(shifted).save(tmp_path / name)
    extraction_of(backbone, tmp_path / "out", SMALL).run(discovery.find_images([str(tmp_path)]))
    one, two = (dr.read_features(tmp_path / "out" / f"{name}.safetensors") for name in ("a.png", "b.png"))
    points = np.array([[60.0, 60.0], [63.0, 70.0]])
    np.testing.assert_allclose(dr.sample(one, points), dr.sample(two, points + 8), rtol=1e-3, atol=1e-3)


@pytest.fixture
def folder_with_a_truncated_one(photograph_folder, tmp_path):
    """Two good images and half of one."""
    folder = tmp_path / "images"
    folder.mkdir()
    data = (photograph_folder / "cat.jpg").read_bytes()
    (folder / "a.jpg").write_bytes(data)
    (folder / "b.jpg").write_bytes(data[: len(data) // 2])
    (folder / "c.jpg").write_bytes(data)
    return folder


def test_a_bad_image_stops_the_job_before_it_starts(backbone, folder_with_a_truncated_one, tmp_path):
    with pytest.raises(dr.InputError, match=r"1 of 3 images cannot be used; nothing was computed") as error:
        extraction_of(backbone, tmp_path / "out", SMALL).run(discovery.find_images([str(folder_with_a_truncated_one)]))
    assert "b.jpg: cannot be decoded" in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_a_bad_image_is_skipped_and_reported(batch, backbone, folder_with_a_truncated_one, tmp_path):
    found = discovery.find_images([str(folder_with_a_truncated_one)])
    extraction = extraction_of(backbone, tmp_path / "out", Settings(size=129, batch=batch))
    outcome = extraction.run(found, on_error="skip")
    assert (outcome.written, len(outcome.failed)) == (2, 1)
    assert "b.jpg: cannot be decoded" in outcome.failed[0]
    assert {name: record["status"] for name, record in lines(tmp_path / "out").items()} == {
        "a.jpg": "ok",
        "b.jpg": "error",
        "c.jpg": "ok",
    }
    before = contents(tmp_path / "out")
    again = extraction.run(found, on_error="skip")
    assert (again.written, again.total, len(again.failed)) == (0, 2, 1)
    assert contents(tmp_path / "out") == before


def test_a_repaired_image_is_extracted(backbone, folder_with_a_truncated_one, tmp_path):
    found = discovery.find_images([str(folder_with_a_truncated_one)])
    extraction = extraction_of(backbone, tmp_path / "out", SMALL)
    extraction.run(found, on_error="skip")
    (folder_with_a_truncated_one / "b.jpg").write_bytes((folder_with_a_truncated_one / "a.jpg").read_bytes())
    assert extraction.run(found).written == 1
    assert lines(tmp_path / "out")["b.jpg"]["status"] == "ok"


def test_an_image_that_breaks_after_the_check(backbone, folder_with_a_truncated_one, tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "check_image", lambda *_: None)
    found = discovery.find_images([str(folder_with_a_truncated_one)])
    with pytest.raises(dr.InputError, match=r"b\.jpg: cannot be decoded"):
        extraction_of(backbone, tmp_path / "one", SMALL).run(found)
    assert set(lines(tmp_path / "one")) == {"a.jpg"}
    outcome = extraction_of(backbone, tmp_path / "two", SMALL).run(found, on_error="skip")
    assert (outcome.written, len(outcome.failed)) == (2, 1)
    assert list(lines(tmp_path / "two")) == ["a.jpg", "b.jpg", "c.jpg"]


@pytest.mark.parametrize("batch", [1, 4])
def test_a_stopped_run_resumes_to_the_same_files(batch, backbone, found, tmp_path):
    settings = Settings(size=129, batch=batch)
    extraction_of(backbone, tmp_path / "whole", settings).run(found)
    seen = []
    stopped = extraction_of(backbone, tmp_path / "parts", settings).run(
        found, progress=lambda what, done, total: seen.append((what, done)), stop=lambda: ("extracting", batch) in seen
    )
    assert stopped.stopped
    assert [what for what, _ in seen[:13]] == ["checking"] * 6 + ["comparing"] * 6 + ["extracting"]
    assert 0 < stopped.total < 6
    rest = extraction_of(backbone, tmp_path / "parts", settings).run(found)
    assert rest.written == 6 - stopped.total
    assert rest.total == 6
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_truncated_manifest_and_a_lost_file_are_completed(backbone, found, tmp_path):
    extraction = extraction_of(backbone, tmp_path / "out", Settings(size=129, batch=4))
    extraction.run(found)
    before = contents(tmp_path / "out")
    manifest = tmp_path / "out" / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-30])
    (tmp_path / "out" / "portrait.png.safetensors").unlink()
    assert extraction.run(found).written == 1
    assert contents(tmp_path / "out") == before


def test_a_damaged_manifest(backbone, found, tmp_path):
    extraction = extraction_of(backbone, tmp_path, SMALL)
    extraction.run(found[:1])
    renamed = (tmp_path / "manifest.jsonl").read_bytes().replace(b'"crc32"', b'"#rc32"')
    for damage in (b"{garbage\n", b"[1]\n", b'{"path": "a"}\n', b"\xff\xfe\n", b'{"path": 1, "status": "ok"}\n', renamed):
        (tmp_path / "manifest.jsonl").write_bytes(damage)
        with pytest.raises(dr.InputError, match=r"manifest\.jsonl, line 1: damaged. Delete that line"):
            extraction.run(found[:1])
    for damage in ("[1]", "{", "null"):
        (tmp_path / "extraction.json").write_text(damage)
        with pytest.raises(dr.InputError, match=r"extraction\.json: damaged"):
            extraction.run(found[:1])


def test_a_changed_image_is_extracted_again(backbone, folder_with_a_truncated_one, photograph_folder, tmp_path):
    (folder_with_a_truncated_one / "b.jpg").unlink()
    found = discovery.find_images([str(folder_with_a_truncated_one)])
    extraction = extraction_of(backbone, tmp_path / "out", SMALL)
    extraction.run(found)
    (folder_with_a_truncated_one / "a.jpg").write_bytes((photograph_folder / "grey.jpg").read_bytes())
    assert extraction.run(found).written == 1
    assert len((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()) == 2  # one line an image again
    (folder_with_a_truncated_one / "c.jpg").write_bytes(b"\xff\xd8\xff not an image any more")
    assert extraction.run(found, on_error="skip").total == 1
    assert sorted(lines(tmp_path / "out")) == ["a.jpg", "c.jpg"]
    assert not (tmp_path / "out" / "c.jpg.safetensors").exists()  # features of what it was do not stay


def test_a_cut_file_and_one_of_another_image_are_made_again(backbone, folder_with_a_truncated_one, photograph_folder, tmp_path):
    (folder_with_a_truncated_one / "b.jpg").unlink()
    found = discovery.find_images([str(folder_with_a_truncated_one)])
    extraction = extraction_of(backbone, tmp_path / "out", SMALL)
    extraction.run(found)
    before = contents(tmp_path / "out")
    path = extraction.path_of(found[0])
    path.write_bytes(path.read_bytes()[:1000])
    assert extraction.run(found).written == 1
    assert contents(tmp_path / "out") == before
    image = folder_with_a_truncated_one / "a.jpg"
    own = image.read_bytes()
    image.write_bytes((photograph_folder / "grey.jpg").read_bytes())  # a shard has another image there for a while
    assert extraction_of(backbone, tmp_path / "out", SMALL, shard=(0, 2)).run(found).written == 1
    image.write_bytes(own)
    assert extraction.run(found).written == 1
    assert path.read_bytes() == before["a.jpg.safetensors"]


def test_existing_files_are_not_overwritten(backbone, folder_with_a_truncated_one, tmp_path):
    found = discovery.find_images([str(folder_with_a_truncated_one)])
    for name in ("b.jpg.safetensors", "c.jpg.alignment.png"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes(b"precious")
        with pytest.raises(dr.InputError, match=f"{name}: already exists, and was not written by this command"):
            extraction_of(backbone, tmp_path / name, SMALL).run(found, on_error="skip")
        assert contents(tmp_path / name) == {name: b"precious"}


@pytest.mark.parametrize("passing", [0, 1])  # met when it is checked, and when it is compared
def test_an_error_of_reading_takes_no_features_away(passing, backbone, folder_with_a_truncated_one, tmp_path, monkeypatch):
    (folder_with_a_truncated_one / "b.jpg").unlink()
    found = discovery.find_images([str(folder_with_a_truncated_one)])
    extraction = extraction_of(backbone, tmp_path / "out", SMALL)
    extraction.run(found)
    before = contents(tmp_path / "out")
    read, times = decoding.open_file, []

    def fail(path):
        if path == found[0].path and len(times) >= passing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        times.extend([path] * (path == found[0].path))
        return read(path)

    monkeypatch.setattr(decoding, "open_file", fail)
    outcome = extraction.run(found, on_error="skip")
    assert (outcome.written, outcome.total) == (0, 1)
    assert outcome.failed == (f"{found[0].path}: cannot be read: Input/output error.",)
    assert contents(tmp_path / "out") == before
    monkeypatch.undo()
    assert extraction.run(found).written == 0


def test_another_protocol_is_refused(backbone, found, tmp_path):
    extraction_of(backbone, tmp_path, SMALL).run(found[:1])
    before = contents(tmp_path)
    with pytest.raises(dr.InputError, match=r"results of another protocol \(dtype: 'float32' there, 'float16' now\)"):
        extraction_of(backbone, tmp_path, Settings(size=129, dtype="float16")).run(found[:1])
    other = laws.backbone_with(STRIDE_8_PLAN, laws.mirror_kernels(backbone.weights))
    with pytest.raises(dr.InputError, match="weights_sha256"):
        extraction_of(other, tmp_path, SMALL).run(found[:1])
    assert contents(tmp_path) == before


def test_shards_make_the_whole(backbone, found, tmp_path):
    for index in range(2):
        extraction_of(backbone, tmp_path / "shards", SMALL, shard=(index, 2)).run(found)
    extraction_of(backbone, tmp_path / "whole", SMALL).run(found)
    merged = lines(tmp_path / "shards", "manifest.0-of-2.jsonl") | lines(tmp_path / "shards", "manifest.1-of-2.jsonl")
    assert merged == lines(tmp_path / "whole")
    for image in found:
        name = f"{image.relative}.safetensors"
        assert (tmp_path / "shards" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    joined = extraction_of(backbone, tmp_path / "shards", SMALL).run(found)
    assert (joined.written, joined.total) == (0, 6)
    assert lines(tmp_path / "shards") == merged


def test_two_runs_on_one_folder(backbone, found, tmp_path):
    extraction = extraction_of(backbone, tmp_path, SMALL)
    raised = []

    def intrude(what, done, total):
        if what == "extracting" and not raised:
            with pytest.raises(dr.InputError, match="is locked by another run"):
                extraction_of(backbone, tmp_path, SMALL).run(found)
            raised.append(True)

    assert extraction.run(found, progress=intrude).written == 6
    assert raised


def test_a_removed_manifest_is_reported(backbone, found, tmp_path):
    def remove(what, done, total):
        if what == "extracting":
            (tmp_path / "manifest.jsonl").unlink(missing_ok=True)

    with pytest.raises(dr.InputError, match=r"manifest\.jsonl: was removed or replaced while this run wrote to it"):
        extraction_of(backbone, tmp_path, SMALL).run(found, progress=remove)
    assert extraction_of(backbone, tmp_path, SMALL).run(found).total == 6


def test_a_manifest_of_another_run_stays_though_this_one_fails(tmp_path):
    path = tmp_path / "manifest.jsonl"
    record = {"path": "a", "status": "ok"}
    with pytest.raises(ZeroDivisionError), Journal(path, "manifest") as log:  # noqa: PT012
        log.add(record)
        log.add(record | {"n": 1})  # a line that counts no longer
        path.unlink()
        path.write_text("of another run\n")
        _ = 1 / 0
    assert path.read_text() == "of another run\n"


@pytest.mark.parametrize(("dtype", "cause"), [("float16", "too large for float16"), ("float32", "the network made them")])
def test_features_that_are_not_finite(dtype, cause, found, tmp_path):
    weights = weights_of(STRIDE_8_PLAN)
    weights["tiny/postnorm/gamma"][:] = 1e6 if dtype == "float16" else 3e38
    broken = laws.backbone_with(STRIDE_8_PLAN, weights)
    with pytest.raises(dr.InputError, match=rf"alpha\.PNG: features at stride 8 are not finite: .*{cause}"):
        extraction_of(broken, tmp_path, Settings(size=129, dtype=dtype)).run(found)
    assert "alpha.PNG.safetensors" not in contents(tmp_path)


def test_a_full_disk_is_found_before_the_job(backbone, found, tmp_path, monkeypatch):
    from dense_resnet.jobs import atomic_files

    usage = atomic_files.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(atomic_files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(dr.InputError, match="MiB are needed and"):
        extraction_of(backbone, tmp_path / "out", SMALL).run(found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(size=512), r"size must be 16n\+1 pixels.*not 512.*next: 513"),
        (Settings(size=129, layers=(4, 16)), r"layers must be among 4, 8 \(not 16\)"),
        (Settings(size=129, dtype="int8"), r"dtype must be one of float32, float16, bfloat16 \(not 'int8'\)"),
        (Settings(size=129, batch=0), r"batch must be a positive integer \(not 0\)"),
        (Settings(size=1), r"size must be 16n\+1 pixels.*not 1\); next: 17"),
        (Settings(size=0), r"size must be a positive integer \(not 0\)"),
    ],
)
def test_settings_that_do_not_fit_the_plan_are_refused(settings, message, backbone, tmp_path):
    with pytest.raises(dr.InputError, match=message):
        extraction_of(backbone, tmp_path, settings)


def test_alignment_pictures_are_drawn(backbone, found, tmp_path):
    extraction = extraction_of(backbone, tmp_path, Settings(size=129, layers=(4, 8)))
    extraction.run(found[:1])
    assert extraction.run(found[:1], picture=True).written == 0  # drawn from the features that are there
    picture = decoding.decode_image("p", (tmp_path / "alpha.PNG.alignment.png").read_bytes())
    assert picture.shape[1] > 1200
    assert picture.std() > 20


def test_pictures_of_older_images_are_removed(backbone, folder_with_a_truncated_one, photograph_folder, tmp_path):
    (folder_with_a_truncated_one / "b.jpg").unlink()
    found = discovery.find_images([str(folder_with_a_truncated_one)])
    extraction = extraction_of(backbone, tmp_path / "out", SMALL)
    extraction.run(found, picture=True)
    (folder_with_a_truncated_one / "a.jpg").write_bytes((photograph_folder / "grey.jpg").read_bytes())
    (folder_with_a_truncated_one / "c.jpg").write_bytes(b"\xff\xd8\xff not an image any more")
    extraction.run(found, on_error="skip")
    assert not [name for name in contents(tmp_path / "out") if name.endswith(".alignment.png")]


def test_a_folder_that_holds_the_images(backbone, folder_with_a_truncated_one):
    found = discovery.find_images([str(folder_with_a_truncated_one)])
    before = contents(folder_with_a_truncated_one)
    for out in (folder_with_a_truncated_one, folder_with_a_truncated_one.parent):
        with pytest.raises(dr.InputError, match="contains the images themselves"):
            extraction_of(backbone, out, SMALL).run(found, picture=True)
    assert contents(folder_with_a_truncated_one) == before


def test_a_manifest_without_its_protocol(backbone, found, tmp_path):
    extraction_of(backbone, tmp_path, SMALL).run(found[:1])
    (tmp_path / "extraction.json").unlink()
    with pytest.raises(dr.InputError, match=r"has manifest\.jsonl but not the extraction\.json that goes with it"):
        extraction_of(backbone, tmp_path, Settings(size=129, dtype="float16")).run(found[:1])


def test_resuming_needs_disk_space_for_the_rest_only(backbone, found, tmp_path, monkeypatch):
    from dense_resnet.jobs import atomic_files

    extraction = extraction_of(backbone, tmp_path, SMALL)
    extraction.run(found[:5])
    usage = atomic_files.shutil.disk_usage(tmp_path)._replace(free=extraction._bytes_per_image() + 10)
    monkeypatch.setattr(atomic_files.shutil, "disk_usage", lambda _: usage)
    assert extraction.run(found).written == 1


def test_a_kill_while_a_file_is_written_leaves_nothing_behind(backbone, found, tmp_path):
    extraction = extraction_of(backbone, tmp_path, SMALL)
    extraction.run(found[:2])
    left = tmp_path / f".{found[2].relative}.safetensors.partial"
    left.write_bytes(b"half")
    extraction.run(found)
    assert not left.exists()


def test_a_name_that_is_too_long(backbone, photograph_folder, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / ("a" * 240 + ".jpg")).write_bytes((photograph_folder / "cat.jpg").read_bytes())
    with pytest.raises(dr.InputError, match="the name is too long"):
        extraction_of(backbone, tmp_path / "out", SMALL).run(discovery.find_images([str(folder)]))


def test_a_lower_pixel_limit_keeps_earlier_features(backbone, found, tmp_path):
    extraction_of(backbone, tmp_path, SMALL).run(found)
    before = contents(tmp_path)
    again = extraction_of(backbone, tmp_path, SMALL, max_pixels=1000).run(found, on_error="skip")
    assert (again.written, again.total, again.failed) == (0, 6, ())
    assert contents(tmp_path) == before


def test_stopping_during_the_checks_writes_nothing(backbone, found, tmp_path):
    assert extraction_of(backbone, tmp_path / "out", SMALL).run(found, stop=lambda: True).stopped
    assert not (tmp_path / "out").exists()


def test_gray_input_for_a_color_scheme_is_refused(tmp_path):
    with pytest.raises(dr.InputError, match="scheme 'vgg' needs 3 channels"):
        extraction_of(dr.Backbone("resnet_v1_18", in_channels=1), tmp_path, SMALL)


# -- the command --------------------------------------------------------------------------------------------------------


def extract_command(photograph_folder, out):
    """The command line of the main job."""
    arguments = "--model resnet_v1_50 --random-weights 0 --output-stride 16 --on-error skip --out".split()
    return [sys.executable, ROOT / "tools" / "extract.py", photograph_folder, *arguments, out]


@pytest.mark.slow
def test_a_killed_extraction_resumes_to_the_same_files(photograph_folder, tmp_path):
    """resnet_v1_50 at stride 16 on real photographs, one of them truncated, by the command."""
    folder = tmp_path / "images"
    folder.mkdir()
    for path in photograph_folder.rglob("*"):
        if path.is_file():
            (folder / f"{path.parent.name[:4]}_{path.name}").write_bytes(path.read_bytes())
    data = (photograph_folder / "cat.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(data[:5000])

    whole = subprocess.run(extract_command(folder, tmp_path / "whole"), capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    assert "features of 6 images" in whole.stdout
    assert "1 image skipped" in whole.stdout
    assert "truncated.jpg: cannot be decoded" in whole.stdout
    written = [path for path in (tmp_path / "whole").iterdir() if path.suffix == ".safetensors"]
    assert len(written) == 6
    for path in written:
        assert dr.read_features(path).map().shape == (33, 33, 2048)

    out = tmp_path / "parts"
    process = subprocess.Popen(extract_command(folder, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list(out.glob("*.safetensors"))) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(out.glob("*.safetensors"))) < 6

    process = subprocess.Popen(extract_command(folder, out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    before = len(list(out.glob("*.safetensors")))
    wait_for(lambda: len(list(out.glob("*.safetensors"))) > before, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    if process.returncode != 0:  # else it was done before the signal came
        assert process.returncode == 75, output
        assert "the same command resumes from here" in output
        last = subprocess.run(extract_command(folder, out), capture_output=True, text=True, check=False)
        assert last.returncode == 0, last.stderr
    assert not list(out.glob(".*.partial"))
    assert contents(out) == contents(tmp_path / "whole")
