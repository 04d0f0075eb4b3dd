"""Law 4 for the engine OpenVINO, directly and by Winograd's algorithm; its cache; several threads."""

import threading

import numpy as np
import pytest
import tensorflow as tf
from helpers.networks import PLACEMENTS, hard_weights, images_of, small_model, small_plan
from hypothesis import given, settings
from hypothesis import strategies as st

import dense_resnet as dr
from dense_resnet.inference import engines
from dense_resnet.verification import laws
from segmentation.heads.plan import HEADS

pytest.importorskip("openvino")

import openvino as ov
from openvino import opset13 as op

from dense_resnet.inference import openvino, openvino_cache, openvino_layers

M = (0, 2, 3, 4)  # of Winograd's F(m x m, 3 x 3); 0 convolves directly


def of_all_depths(monkeypatch, m):
    monkeypatch.setattr(openvino, "WINOGRAD", {1: m} if m else {})


@pytest.mark.parametrize("m", M)
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_small_networks_equal_the_slim_graph(placement, m, monkeypatch):
    of_all_depths(monkeypatch, m)
    for output_stride in (4, 8, 16):
        plan = small_plan(placement, output_stride)
        backbone = laws.backbone_with(plan, hard_weights(plan))
        run = backbone.compile("float32", engine="openvino")
        assert run.engine == "openvino"
        for size in ((33, 50), 64, 65):
            images = images_of(size, batch=2)
            assert laws.relative_error(run(images), backbone(images)) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("name", ["resnet_v1_18", "resnet_v1_50", "resnet_v2_50", "resnet_v1_5_50", "resnet_v1_50_beta"])
def test_variants_equal_the_slim_graph(name, output_stride):
    plan = dr.plan(name, output_stride=output_stride)
    backbone = laws.backbone_with(plan, hard_weights(plan))
    run = backbone.compile("float32", engine="openvino")
    for size in (97, (64, 96)):
        assert laws.relative_error(run(images_of(size)), backbone(images_of(size))) <= 1e-4


@pytest.mark.parametrize("root", ["slim", "symmetric", "keras", "beta"])
def test_root_blocks(root):
    plan = dr.plan("resnet_v2_50", output_stride=8, root=root)
    plan = dr.plan([("block1", [(8, 4, 2)])], kind="bottleneck_v2", root=plan.root_name, scope="tiny")
    backbone = laws.backbone_with(plan, hard_weights(plan))
    assert laws.relative_error(backbone.compile("float32", engine="openvino")(images_of(65)), backbone(images_of(65))) <= 1e-4


def test_the_pyramid_and_the_classifier():
    plan = dr.plan("resnet_v1_18", output_stride=8, num_classes=7)
    backbone = laws.backbone_with(plan, hard_weights(plan))
    expected, found = (
        backbone.features(images_of(65)),
        backbone.compile("float32", engine="openvino", output="pyramid")(images_of(65)),
    )
    assert list(found) == list(expected)
    for stride, values in found.items():
        assert laws.relative_error(values, expected[stride]) <= 1e-4
    logits = backbone.compile("float32", engine="openvino", output="logits")(images_of(65))
    assert laws.relative_error(logits, backbone.logits(images_of(65))) <= 1e-4


@settings(max_examples=40)
@given(
    m=st.sampled_from(M[1:]), rate=st.integers(1, 5), rows=st.integers(1, 20), columns=st.integers(1, 20),
    depths=st.tuples(st.integers(1, 5), st.integers(1, 5)), batch=st.integers(1, 2),
)  # fmt: skip
def test_winograd_against_direct_convolution(m, rate, rows, columns, depths, batch):
    generator = np.random.default_rng(0)
    images = generator.normal(size=(batch, rows, columns, depths[0])).astype(np.float32)
    kernel = generator.normal(size=(3, 3, *depths))
    cells, size = op.parameter([-1, depths[0]], np.float32), op.parameter([3], np.int64)
    convolved = openvino_layers.convolve_by_winograd(cells, kernel, m, openvino_layers.tile(size, m, rate))
    compiled = ov.Core().compile_model(
        ov.Model([op.result(convolved)], [cells, size]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    [found] = compiled([images.reshape(-1, depths[0]), np.array(images.shape[:3])]).values()
    expected = tf.nn.convolution(
        np.pad(images, [(0, 0), (rate, rate), (rate, rate), (0, 0)]), kernel.astype(np.float32), dilations=rate
    )
    np.testing.assert_allclose(found, np.reshape(expected, found.shape), rtol=0, atol=3e-5 * np.sqrt(9 * depths[0]))


@pytest.mark.parametrize("canvas", ["image", "padded"])
@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("head", HEADS)
def test_models_give_what_tensorflow_gives(head, separable, canvas):
    model = small_model(head, separable=separable, canvas=canvas)
    ours, theirs = (model.runner("float32", engine=engine) for engine in ("openvino", "tensorflow"))
    images = np.random.default_rng(0).integers(0, 256, (2, 97, 90, 3), np.uint8)
    found, expected = (runner(images, [(97, 90), (60, 41)], ours.names) for runner in (ours, theirs))
    assert ours.names == theirs.names
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        if name == "labels":
            assert np.mean(found[name] == values) > 0.999
        else:
            assert laws.relative_error(found[name], values) <= 1e-4, name
    compiled = model.compile("float32", engine="openvino")
    assert laws.relative_error(compiled(images_of((40, 71))), model(images_of((40, 71)))) <= 1e-4


def test_the_answer_does_not_depend_on_what_was_asked_before():
    """One graph takes all shapes, and gives each the bits that it gives it alone."""
    runner = small_model("fcn").runner("float32", engine="openvino")
    images = np.random.default_rng(0).integers(0, 256, (1, 97, 97, 3), np.uint8)
    first = runner(images)["features"]
    runner(images[:, :65, :80])
    np.testing.assert_array_equal(runner(images)["features"], first)
    np.testing.assert_array_equal(runner(np.concatenate([images] * 3))["features"][2:], first)


def test_threads_at_the_same_time():
    model = small_model("fcn")
    runner = model.runner("float32", engine="openvino")
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 65, 65, 3), np.uint8)
    expected = [runner(one)["features"] for one in images]
    runner.prepare(2)
    found = {}
    threads = [threading.Thread(target=lambda place=place: found.update({place: runner(images[place])})) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, one in enumerate(expected):
        np.testing.assert_array_equal(found[place]["features"], one)


def test_the_next_process_finds_the_compiled_graph(monkeypatch, tmp_path):
    monkeypatch.setenv("DENSE_RESNET_CACHE", str(tmp_path))
    model, images = small_model("fcn"), np.zeros((1, 65, 65, 3), np.uint8)
    first = model.runner("float32", engine="openvino")(images)["features"]
    [cached] = (tmp_path / engines.OPENVINO).iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(openvino_layers, "network", None)  # nothing is built
        np.testing.assert_array_equal(model.runner("float32", engine="openvino")(images)["features"], first)
    for damaged in (openvino_cache.WEIGHTS, openvino_cache.GRAPH, openvino_cache.CHECKSUM):  # it is made anew
        (cached / damaged).write_bytes((cached / damaged).read_bytes()[:-1] + b"x")
        assert openvino_cache.read(cached) is None
        np.testing.assert_array_equal(model.runner("float32", engine="openvino")(images)["features"], first)
        assert openvino_cache.read(cached)
    for m in (2, 3, 4):  # another algorithm is another graph
        of_all_depths(monkeypatch, m)
        model.runner("float32", engine="openvino")(images)
    assert len(list((tmp_path / engines.OPENVINO).iterdir())) == openvino_cache.KEPT == 4
    of_all_depths(monkeypatch, 0)
    model.runner("float32", engine="openvino")(images)
    assert len(list((tmp_path / engines.OPENVINO).iterdir())) == 4


def test_a_cache_that_cannot_be_written_is_left(monkeypatch, tmp_path):
    (tmp_path / "cache").write_bytes(b"")
    monkeypatch.setenv("DENSE_RESNET_CACHE", str(tmp_path / "cache"))
    runner = small_model("fcn").runner("float32", engine="openvino")
    assert runner(np.zeros((1, 65, 65, 3), np.uint8))["features"].shape[:3] == (1, 5, 5)
