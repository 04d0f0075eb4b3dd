"""Law 4 for the fused builder: the same weights give the slim builder's features; and the graph that runs is a fused one."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from helpers import ROOT
from helpers.networks import PLACEMENTS, hard_weights, images_of, small_model, small_plan, weights_of

import dense_resnet as dr
from dense_resnet.errors import InputError
from dense_resnet.inference import compiled, cpu, folding, precision
from dense_resnet.planning.layers import Conv
from dense_resnet.verification import laws
from segmentation.heads.plan import HEADS


def compiled_network(plan, weights, precision="float32", **options):
    return laws.backbone_with(plan, weights).compile(precision, engine="tensorflow", **options)


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [4, 8, 16])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_compiled_small_networks_equal_the_slim_graph(placement, output_stride):
    plan = small_plan(placement, output_stride)
    weights = hard_weights(plan)
    backbone = laws.backbone_with(plan, weights)
    run = backbone.compile("float32", engine="tensorflow")
    for size in ((33, 50), 64, 65):
        reference = backbone(images_of(size, batch=2))
        assert np.std(reference) > 1e-2
        assert laws.relative_error(run(images_of(size, batch=2)), reference) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        ("resnet_v1_18", 8), ("resnet_v1_50", 32), ("resnet_v1_5_18", 16), ("resnet_v1_50_original", 8),
        ("resnet_v1_18_beta", 16), ("resnet_v2_50", 16), ("resnet_v2_50", 8),
    ],
)  # fmt: skip
def test_compiled_variants_equal_the_slim_graph(name, output_stride):
    plan = dr.plan(name, output_stride=output_stride)
    weights = hard_weights(plan)
    backbone = laws.backbone_with(plan, weights)
    run = backbone.compile("float32", engine="tensorflow")
    for size in (97, (64, 96)):
        assert laws.relative_error(run(images_of(size)), backbone(images_of(size))) <= 1e-4


@pytest.mark.parametrize("sign", [1, -1, 0])
def test_gammas_of_one_sign_are_folded_correctly(sign):
    plan = small_plan("v2, last unit", 8)
    weights = weights_of(plan)
    for name, value in weights.items():
        if name.endswith("preact/gamma"):
            value[:] = sign * np.abs(value)
    backbone = laws.backbone_with(plan, weights)
    assert laws.relative_error(backbone.compile("float32", engine="tensorflow")(images_of(33)), backbone(images_of(33))) <= 1e-4


@pytest.mark.parametrize("placement", ["v2, last unit", "v1, last unit", "v1.5", "beta"])
def test_compiled_pyramid_equals_the_slim_graph(placement):
    plan = small_plan(placement, 8)
    weights = hard_weights(plan)
    ours, theirs = (
        compiled_network(plan, weights, output="pyramid")(images_of(65)),
        laws.backbone_with(plan, weights).features(images_of(65)),
    )
    assert list(ours) == list(theirs)
    for stride, values in ours.items():
        assert laws.relative_error(values, theirs[stride]) <= 1e-4


@pytest.mark.parametrize("options", [{"root_block": False}, {"multi_grid": (1, 2)}])
def test_compiled_plans_with_other_options_equal_the_slim_graph(options):
    plan = small_plan("v2, last unit", 4, **options)
    weights = hard_weights(plan)
    for size in (33, 32):
        error = laws.relative_error(
            compiled_network(plan, weights)(images_of(size)), laws.backbone_with(plan, weights)(images_of(size))
        )
        assert error <= 1e-4


@pytest.mark.parametrize("root", ["slim", "symmetric", "keras", "beta"])
def test_root_blocks_of_v2(root):
    blocks = [("block1", [(8, 4, 2)]), ("block2", [(8, 4, 1)])]
    plan = dr.plan(blocks, root=root)
    weights = hard_weights(plan)
    for size in (33, 32):
        error = laws.relative_error(
            compiled_network(plan, weights)(images_of(size)), laws.backbone_with(plan, weights)(images_of(size))
        )
        assert error <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("options", [{}, {"separable": False}, {"image_pooling_crop": 65}, {"output_stride": 8}])
def test_segmentation_models(head, options):
    model = small_model(head, **options)
    pixels, cells = model.compile("float32", engine="tensorflow"), model.compile("float32", engine="tensorflow", enlarge=False)
    for size in ((50, 77), (65, 65)):
        assert laws.relative_error(pixels(images_of(size)), model(images_of(size))) <= 1e-4
    assert laws.relative_error(cells(images_of(65)), model.logits(images_of(65))) <= 1e-4
    low = model.compile("bfloat16", engine="tensorflow")(images_of(65))
    assert low.dtype == np.float32
    assert laws.relative_error(low, model(images_of(65))) <= 0.5


WITHOUT_ONEDNN = """
import sys
sys.path[:0] = {paths}
from helpers.networks import images_of, small_model
from dense_resnet.inference import compiled
from dense_resnet.verification import laws
assert not compiled.keeps_kernels_apart()
for head in ("aspp", "decoder"):
    model = small_model(head)
    print(laws.relative_error(model.compile("float32", engine="tensorflow")(images_of(65)), model(images_of(65))))
"""


@pytest.mark.slow
def test_where_tensorflow_has_no_onednn():
    """As on Macs: its depthwise convolution takes no rate there."""
    code = WITHOUT_ONEDNN.format(paths=[str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "golden")])
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    errors = [float(line) for line in result.stdout.split()]
    assert len(errors) == 2
    assert max(errors) <= 1e-4


needs_onednn = pytest.mark.skipif(not compiled.keeps_kernels_apart(), reason="this TensorFlow has no oneDNN")


@pytest.mark.slow
def test_bfloat16_is_close():
    plan = dr.plan("resnet_v2_50", output_stride=16)
    weights = weights_of(plan)
    reference = laws.backbone_with(plan, weights)(images_of(97)).numpy()
    values = compiled_network(plan, weights, "bfloat16")(images_of(97))
    assert values.dtype == np.float32
    assert 1e-4 < np.sqrt(np.mean((values - reference) ** 2)) / reference.std() < 0.05


def test_a_compiled_backbone_keeps_the_weights_that_it_was_made_with():
    backbone = dr.Backbone(small_plan("v1.5", 8), seed=0)
    run = backbone.compile("float32", engine="tensorflow")
    before = run(images_of(33))
    for variable in backbone.trainable.values():
        variable.assign(tf.zeros_like(variable))
    np.testing.assert_array_equal(run(images_of(33)), before)


def test_a_batch_equals_its_single_images():
    plan = small_plan("v2, last unit", 8)
    run = compiled_network(plan, hard_weights(plan))
    images = images_of(33, batch=3)
    assert laws.relative_error(run(images), np.concatenate([run(images[i : i + 1]) for i in range(3)])) <= 1e-5


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx512_bf16 sse", "bfloat16"),
        ("amx_bf16 amx_tile", "bfloat16"),
        ("fpu avx2 avx512f", "float32"),
        (None, "float32"),
    ],
)
def test_auto_precision_follows_the_processors_flags(flags, expected, monkeypatch, tmp_path):
    path = tmp_path / "cpuinfo"
    if flags is not None:
        path.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: amx_bf16_bug\n")
    monkeypatch.setattr(cpu, "PROCESSOR", path)
    assert precision.choose_precision("auto") == expected
    assert precision.choose_precision("float32") == "float32"


def test_images_of_another_shape():
    run = dr.Backbone(small_plan("v1.5", 8)).compile("float32", engine="tensorflow")
    for images in (np.zeros((33, 33, 3)), np.zeros((1, 33, 33, 4))):
        with pytest.raises(InputError, match=r"images must have shape \[batch, height, width, 3\]"):
            run(images)


def test_symbolic_tensors():
    run = dr.Backbone(dr.plan([("block1", [(8, 4, 2)])]), seed=0).compile("float32", engine="tensorflow")
    with pytest.raises(ValueError, match=r"takes arrays, not symbolic tensors: inside tf\.function call the backbone itself"):
        tf.function(run)(tf.zeros([1, 5, 5, 3]))
    with pytest.raises(InputError, match=r"images must be numbers of shape \[batch, height, width, 3\] \(not 'a.jpg'\)"):
        run("a.jpg")


def test_unknown_precisions():
    with pytest.raises(InputError, match=r"precision must be one of 'auto', 'float32', 'bfloat16' \(not 'int8'\)"):
        dr.Backbone(small_plan("v1.5", 8)).compile("int8")


PROGRAM = """
import sys
import numpy as np
sys.path[:0] = {paths!r}
from dense_resnet.verification import laws
from helpers.networks import hard_weights, small_plan
run = laws.backbone_with((plan := small_plan({placement!r}, 8)), hard_weights(plan)).compile({precision!r}, engine="tensorflow")
images = np.zeros((1, 65, 65, 3), np.float32)
run(images)
print("BEGIN", flush=True)
run(images)
"""


@pytest.mark.slow
@needs_onednn
@pytest.mark.parametrize(("placement", "precision"), [("v2, last unit", "float32"), ("v1, last unit", "float32")])
def test_onednn_runs_fused_convolutions(placement, precision):
    """What the second run executes: each convolution once, sums and ReLUs in them, and no weight is packed again."""
    code = PROGRAM.format(
        paths=[str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "golden")], placement=placement, precision=precision
    )
    environment = {**os.environ, "ONEDNN_VERBOSE": "1"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    executed = [line for line in result.stdout.partition("BEGIN")[2].splitlines() if ",exec," in line]
    convolutions = [line for line in executed if re.search(r",(convolution|inner_product|matmul),", line)]
    plan = small_plan(placement, 8)
    planned = [layer for layer in plan.root if isinstance(layer, Conv)] + [
        conv for unit in plan.units for conv in (*unit.convolutions, *([unit.shortcut] if unit.shortcut else []))
    ]
    assert len(convolutions) == len(planned)
    sums = [line for line in convolutions if re.search(r"sum|binary_add", line)]
    rectified = [line for line in convolutions if "eltwise_relu" in line]
    assert len(sums) == sum(unit.stride == 1 for unit in plan.units)  # of other shortcuts it cannot know the size
    assert len(rectified) >= sum(conv.relu for conv in planned)


def both_ways(plan, weights, precision, monkeypatch):
    """A compiled backbone with its kernels apart, and one with them in its graph."""
    assert compiled.keeps_kernels_apart()
    apart = compiled_network(plan, weights, precision)
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "keeps_kernels_apart", lambda: False)
        return apart, compiled_network(plan, weights, precision)


@needs_onednn
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("placement", ["v2, last unit", "v1, last unit", "v1.5"])
def test_kernels_apart_give_the_numbers_of_kernels_in_the_graph(placement, precision, monkeypatch):
    plan = small_plan(placement, 8)
    apart, plain = both_ways(plan, hard_weights(plan), precision, monkeypatch)
    for size in (65, (40, 70), 33):
        np.testing.assert_array_equal(apart(images_of(size)), plain(images_of(size)))


@needs_onednn
def test_graphs_without_their_kernels_are_small():
    plan = dr.plan("resnet_v1_18", output_stride=16)
    weights = weights_of(plan)

    def build(layers):
        images = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], name="images")
        return [tf.identity(folding.network(layers, plan, images).features, "features").op.name]

    sizes = [
        compiled.freeze(build, weights, "float32", portable=portable)[0].as_graph_def().ByteSize() for portable in (False, True)
    ]
    assert sizes[0] < 10**6 < 4 * 10**7 < sizes[1]


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_where_tensorflow_cannot_fuse_the_graph_is_portable_and_the_log_says_so_once(error, monkeypatch, caplog):
    plan = small_plan("v1.5", 8)
    weights = hard_weights(plan)
    reference = compiled_network(plan, weights)(images_of(33))
    compiled.keeps_kernels_apart()

    def fail(*_):
        raise error("not here")

    monkeypatch.setattr(compiled, "fuse_graph", fail)
    compiled._log_fallback.cache_clear()
    with caplog.at_level("INFO", "dense_resnet"):
        np.testing.assert_array_equal(compiled_network(plan, weights)(images_of(33)), reference)
        compiled.keeps_kernels_apart.cache_clear()
        assert not compiled.keeps_kernels_apart()
    assert [record.levelname for record in caplog.records if "not here" in record.getMessage()] == ["INFO"]
    compiled.keeps_kernels_apart.cache_clear()


MEMORY = """
import sys
import numpy as np
sys.path[:0] = {paths!r}
import dense_resnet as dr
from dense_resnet.inference import compiled, folding
from helpers.networks import small_plan, weights_of
from tools.benchmarking import hardware

def build(plan):
    return lambda layers, images: folding.network(layers, plan, images).features

def run(plan, weights):
    compiled.freeze_function(build(plan), weights, 3, "float32")(np.zeros((1, 65, 65, 3)))

small = small_plan("v2, last unit", 8)
run(small, weights_of(small))  # TensorFlow itself
plan = dr.plan("resnet_v2_50", output_stride=16)
weights = weights_of(plan)
size = sum(value.nbytes for value in weights.values())
before = hardware.peak_memory()
run(plan, weights)
print((hardware.peak_memory() - before) / size)
"""


@pytest.mark.slow
@needs_onednn
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read as Linux gives it")
def test_freezing_takes_about_three_times_the_weights():
    code = MEMORY.format(paths=[str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "golden")])
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert 1 < float(result.stdout) < 3.3  # 2.8 of 152 layers; with kernels in the graph 9
