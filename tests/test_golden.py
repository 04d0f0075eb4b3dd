"""The original code's facts: names, shapes, accepted strides, sizes, and numbers on weights and inputs made from names alone.

The files were made by TensorFlow models' research/slim and research/deeplab (2024-04-24) on TensorFlow 2.21, CPU, float32,
inference mode; golden/det_weights.py makes weights and inputs. Every second channel of the features is kept. Tolerance 2e-4
of the standard deviation is ten times the noise between kernels.
"""

import functools
import json
import re

import numpy as np
import pytest
import tensorflow as tf
from det_weights import det_input, det_weight
from helpers import GOLDEN

import dense_resnet as dr
from dense_resnet.checkpoints.provenance import Origin
from dense_resnet.verification import laws
from segmentation.heads.plan import plan_head
from segmentation.saving import conversion
from segmentation.saving.model_directory import load_model

v1 = tf.compat.v1

TOLERANCE = 2e-4
NAMES = json.loads((GOLDEN / "names_deeplab.json").read_text())
STATS = json.loads((GOLDEN / "stats.json").read_text())
FACTS = json.loads((GOLDEN / "end_points.json").read_text())
CASES = {  # file: variant, size, multi_grid
    "v2_50_96x128_os16": ("resnet_v2_50", (96, 128), None),
    "v1_50_beta_97_os16_mg124": ("resnet_v1_50_beta", (97, 97), (1, 2, 4)),
}


def variables_of(config):
    """What a configuration of the original code makes, by our plans."""
    variant, _, parts = config.partition("/")
    plan = dr.plan(variant, output_stride=16)
    if parts == "backbone":
        return plan.variables
    head = "decoder" if "decoder" in parts else "aspp"
    return (*plan.variables, *plan_head(plan, 21, head, separable="sep" in parts).variables)


@pytest.mark.parametrize("config", NAMES)
def test_variables_are_deeplabs(config):
    ours, theirs = variables_of(config), NAMES[config]
    assert [[name, list(shape), trainable] for name, shape, trainable in ours] == theirs["variables"]
    assert sum(np.prod(shape, dtype=int) for _, shape, trainable in ours if trainable) == theirs["params_trainable"]


@functools.cache
def end_points_of(case):
    """Every activation of a numeric case, by name."""
    name, size, multi_grid = CASES[case]
    plan = dr.plan(name, output_stride=16, multi_grid=multi_grid)
    backbone = laws.backbone_with(
        plan, {variable.name: det_weight(variable.name, variable.shape) for variable in plan.variables}
    )
    return backbone.end_points(det_input(*size))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_features_of_the_original_code(case):
    expected = np.load(GOLDEN / f"{case}.npy", allow_pickle=False)
    assert laws.relative_error(end_points_of(case)["features"][..., ::2], expected) <= TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_every_end_point_of_the_original_code(case):
    """Shape, 16 values and the spread of each; units and blocks have two names in one place."""
    ours, theirs = end_points_of(case), STATS[case]["end_points"]
    assert set(theirs) <= set(ours)
    for name, facts in {**theirs, "features": STATS[case]["output"]}.items():
        values = np.asarray(ours[name], np.float64)
        assert list(values.shape) == facts["shape"], name
        assert facts["std"] > 1e-2
        probes = values.reshape(-1)[facts["probe_idx"]]
        assert np.abs(probes - facts["probe"]).max() <= TOLERANCE * facts["std"], name
        assert abs(values.std() - facts["std"]) <= TOLERANCE * facts["std"], name
        assert abs(values.mean() - facts["mean"]) <= TOLERANCE * facts["std"], name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("facts", "name"),
    [("research_slim/resnet_v2_50", "resnet_v2_50"), ("research_slim/resnet_v1_50", "resnet_v1_50"),
     ("deeplab/resnet_v1_50_beta", "resnet_v1_50_beta")],
)  # fmt: skip
def test_names_and_shapes_of_all_end_points(facts, name):
    """At 97x97 and stride 16, with 21 classes, by the slim face, as their users build it."""
    from dense_resnet import resnet_v1, resnet_v2
    from dense_resnet.compat import slim

    with tf.Graph().as_default(), slim.arg_scope(resnet_v2.resnet_arg_scope()):
        module = resnet_v2 if "v2" in name else resnet_v1
        images = v1.placeholder(tf.float32, [1, 97, 97, 3])
        network = getattr(module, name)
        net, end_points = network(images, 21, is_training=False, global_pool=False, output_stride=16)
        assert net.shape.as_list() == FACTS[facts]["net_shape"]
        ours = [[point, tensor.shape.as_list()] for point, tensor in end_points.items()]
    theirs = [[point, shape] for point, shape, _ in FACTS[facts]["end_points"]]
    assert sorted(ours) == sorted(theirs)


STRIDES = [key for key in FACTS if key.startswith("os_check/")]


@pytest.mark.parametrize("key", STRIDES)
def test_strides_are_accepted_as_by_the_original_code(key):
    name = "resnet_v1_50_beta" if "beta" in key else key.split("/")[2]
    stride = int(re.search(r"os(\d+)$", key)[1])
    facts = FACTS[key]
    if "error" in facts:
        with pytest.raises(ValueError, match=re.escape(facts["message"])):
            dr.plan(name, output_stride=stride)
    else:
        assert [1, *dr.plan(name, output_stride=stride).feature_size(97), 2048] == facts["net_shape"]


@pytest.mark.parametrize("key", [key for key in FACTS if key.startswith("sizes/")])
def test_sizes_of_the_original_code(key):
    name, setting = key.split("/")[2:]
    height, width, stride = map(int, re.fullmatch(r"(\d+)x(\d+)_os(\d+)", setting).groups())
    assert [1, *dr.plan(name, output_stride=stride).feature_size((height, width)), 2048] == FACTS[key]["net_shape"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "file", "size"),
    [("resnet_v1_50_beta/aspp_sep_decoder_sep", "logits_aspp_sep_decoder_sep_97_os16", 97)],
)
def test_a_checkpoint_of_deeplab_becomes_a_model(config, file, size, tmp_path):
    """As DeepLab's trainer leaves it: with momentum and a step count, under its own scopes; then the model's logits."""
    with tf.Graph().as_default(), v1.Session() as session:
        made = [
            v1.get_variable(name, initializer=det_weight(name, tuple(shape)), use_resource=True)
            for name, shape, _ in NAMES[config]["variables"]
        ]
        made.append(v1.get_variable("logits/semantic/weights/Momentum", initializer=np.ones((1, 1, 256, 21), np.float32)))
        made.append(v1.get_variable("global_step", initializer=np.int64(30000)))
        session.run(v1.global_variables_initializer())
        path = v1.train.Saver(made).save(session, str(tmp_path / "model.ckpt"), 30000, write_meta_graph=False)
    network = conversion.open_network(path, output_stride=16)
    assert network.origin == Origin("DeepLab", "resnet_v1_50_beta", "inception")
    assert network.report.unexpected == ("logits/semantic/weights/Momentum",)
    assert network.head == (21, "decoder", True)
    conversion.write(network, "model-dir", tmp_path / "model", space="voc")
    saved = load_model(tmp_path / "model")
    assert (saved.preprocessing, saved.space.names[15]) == ("inception", "person")
    expected = np.load(GOLDEN / f"{file}.npy", allow_pickle=False)
    assert laws.relative_error(saved.model.logits(det_input(size, size)), expected) <= TOLERANCE
