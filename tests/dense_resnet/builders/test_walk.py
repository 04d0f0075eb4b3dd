"""walk.py: what each layer reads, at which stride and rate; where masks are laid; without any framework."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dense_resnet as dr
from dense_resnet.builders import walk

BLOCKS = [("block1", [(8, 4, 1), (8, 4, 2)]), ("block2", [(12, 4, 2)]), ("block3", [(12, 4, 2)])]
FAMILIES = ("resnet_v2_50", "resnet_v1_18", "resnet_v1_5_18", "resnet_v1_50_original", "resnet_v1_50_beta")


class Recorder:
    """Ops whose tensors are the texts of what made them, and which keep each layer with the text that it reads."""

    def __init__(self):
        self.layers = []

    def conv(self, net, conv):
        self.layers.append((conv, net))
        return f"{conv.scope}({net})"

    def norm_relu(self, net, norm):
        self.layers.append((norm, net))
        return f"{norm.scope}({net})"

    def pool(self, net, pool):
        self.layers.append((pool, net))
        return f"{pool.scope}({net})"

    def subsample(self, net, factor, scope):
        return net if factor == 1 else f"{net}[::{factor}]"

    def add(self, shortcut, branch, scope):
        return f"[{shortcut} + {branch}]"

    def relu(self, net, scope):
        return f"relu{net}"

    def mean(self, net, scope):
        return f"mean {net}"


class Placer:
    """Ops whose tensors are the pixels between their cells, and which keep what each convolution reads."""

    def __init__(self):
        self.read = {}  # {scope of a convolution: the stride of what it reads}

    def conv(self, net, conv):
        self.read[conv.scope] = net
        return net * conv.stride

    def pool(self, net, pool):
        return net * pool.stride

    def subsample(self, net, factor, scope):
        return net * factor

    def add(self, shortcut, branch, scope):
        assert shortcut == branch  # else the shapes differ
        return branch

    def norm_relu(self, net, norm):
        return net

    relu = mean = norm_relu


def tiny(**arguments):
    return dr.plan([("b1", [(8, 4, 2), (8, 4, 1)])], scope="n", **arguments)


def test_a_v2_unit_reads_what_it_should():
    unit = "n/b1/unit_{}/bottleneck_v2/{}".format
    branch = net = "images"
    for number, shortcut in ((1, "{}({})"), (2, "{1}")):
        branch = f"{unit(number, 'preact')}({net})"
        shortcut = f"{unit(1, 'shortcut')}({branch})" if number == 1 else net
        for conv in ("conv1", "conv2", "conv3"):
            branch = f"{unit(number, conv)}({branch})"
        net = f"[{shortcut} + {branch}]"
    found = walk.run(tiny(include_root_block=False, num_classes=5), Recorder(), "images", skip=unit(2, "conv3"))
    assert found.skip == branch
    assert found.features == f"n/postnorm({net})"
    assert found.logits == f"n/logits(mean {found.features})"


def test_a_v1_unit_ends_in_a_relu():
    found = walk.run(tiny(include_root_block=False, kind="bottleneck_v1"), Recorder(), "images")
    assert found.features.startswith("relu[relu[n/b1/unit_1/bottleneck_v1/shortcut(images) + ")
    assert (found.skip, found.logits, found.pyramid) == (None, None, {})


@pytest.mark.parametrize("output_stride", [4, 8, 16, 32])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_layer_of_the_plan_is_run_once_and_in_order(name, output_stride):
    plan = dr.plan(name, output_stride, num_classes=3)
    ops = Recorder()
    walk.run(plan, ops, "images")
    planned = list(plan.root)
    for unit in plan.units:
        planned += [part for part in (unit.preact, unit.shortcut, *unit.convolutions) if part]
    planned += [part for part in (plan.postnorm, plan.logits) if part]
    assert [layer for layer, _ in ops.layers] == planned


@given(st.sampled_from(FAMILIES), st.sampled_from([4, 8, 16, 32]), st.booleans())
def test_law_1_holds_where_layers_are_run(name, output_stride, pyramid):
    """The stride of what a 3x3 reads is the plan's, and times its rate that of the nominal network; masks are told it."""

    def mask(net, stride, lowest):
        assert net == stride
        return net

    plan = dr.plan(name, output_stride)
    ops, nominal = Placer(), Placer()
    found = walk.run(plan, ops, 1, pyramid=pyramid, mask=mask)
    walk.run(dr.plan(name), nominal, 1)
    assert found.features == output_stride
    assert found.pyramid == ({stride: stride for stride in plan.pyramid} if pyramid else {})
    for unit in plan.units:
        stride = unit.input_stride
        for conv in unit.convolutions:
            if conv.kernel > 1:
                assert ops.read[conv.scope] == stride
                assert ops.read[conv.scope] * conv.rate == nominal.read[conv.scope]
            stride *= conv.stride


def test_a_pyramid_defers_strides():
    plan = dr.plan(BLOCKS, 16, scope="n", kind="bottleneck_v1")
    found = walk.run(plan, Recorder(), "images", pyramid=True)
    assert list(found.pyramid) == list(plan.pyramid) == [4, 8, 16]
    assert f"{found.pyramid[4]}[::2]" in found.pyramid[8]
    assert found.pyramid[16] == found.features
    assert "[::2]" in walk.run(plan, Recorder(), "images").features  # of the shortcut, in the unit


@pytest.mark.parametrize("root", ["slim", "symmetric", "keras", "beta"])
def test_masks_lie_before_every_kernel_that_would_read_beyond_the_image(root):
    plan = tiny(root=root)
    ops, strides = Recorder(), []

    def mask(net, stride, lowest):
        strides.append(stride)
        return f"{'lowest' if lowest else 'zero'}{stride} {net}"

    walk.run(plan, ops, "images", mask=mask)
    for layer, net in ops.layers:
        masked = net.startswith(("lowest", "zero"))
        if layer in plan.root[:1]:
            assert net == "images"  # they are 0 beyond
        elif layer is plan.root[-1]:
            assert net.startswith("zero2 " if root == "keras" else "lowest2 ")
        elif getattr(layer, "kernel", 1) > 1:
            assert masked
        else:  # the first unit reads what the pooling's own mask gives
            assert not masked or net.startswith("zero4 n/pool1")
    assert strides == [2] * (len(plan.root) - 1) + [4, 4, 8]
