"""The features of random small networks, in each of the library's forms, against three builders that nobody here wrote.

``tf_slim.nets``, Keras Applications and timm build theirs from the same units and get the same weights. What those cannot
build, such as a stride where none of them has it, or atrous rates of a unit's own, is chained in PyTorch, in float64, as
`networks.walk` says. The forms are the slim graph, the graph of folded constants that ``compile`` makes, and the Keras model.
"""

import math
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.networks import weights_of

from campaign.networks import BASIC, V1, V2, Network, random_network, walk
from dense_resnet import keras_resnet
from dense_resnet.compat import slim
from dense_resnet.errors import InputError
from dense_resnet.verification import laws

EPSILON = 1e-5  # of batch norms; Keras Applications' is 1.001e-5
NOISE = 1e-4
NOISE_OF_SLIM = 2e-5  # of the same ops in the same order
FLOOR = 0.1  # of what a difference is measured by: activations inside are near 1, however little the last ReLU leaves of them


class Compared:
    """What has been compared, and how far each form was off at most, in units of the features' root mean square.

    Args:
        exact: the slim graph's bound.
    """

    def __init__(self, exact=NOISE):
        self.bounds = {"exact": exact, "fused": NOISE, "keras": NOISE}
        self.worst = dict.fromkeys(self.bounds, 0.0)
        self.networks = self.maps = self.subsampled = self.values = self.flat = 0

    def forms(self, network, weights, random, references):
        """Every form of a network, at three sizes.

        Args:
            network, weights: what is built.
            random: makes the images.
            references: {stride: a function of images}, features of the same network at that stride. Where it is coarser
                than the network's own, they are to be those of every some cells.
        """
        plan = network.plan()
        backbone = laws.backbone_with(plan, weights)
        forms = {
            "exact": backbone,
            "fused": backbone.compile("float32"),
            "keras": keras_resnet.build(plan, input_shape=(None, None, plan.in_channels), weights=weights),
        }
        for variables in (backbone.trainable_variables, forms["keras"].trainable_variables):
            assert sum(math.prod(variable.shape) for variable in variables) == plan.parameter_count
        for size in sizes_of(random):
            message = f"{network} at {size}"
            images = random.standard_normal((2, *size, plan.in_channels)).astype(np.float32)
            made = {form: np.asarray(run(images)) for form, run in forms.items()}
            for stride, reference in references.items():
                expected, factor = reference(images), stride // plan.output_stride
                scale = max(float(np.sqrt(np.mean(expected**2))), FLOOR)
                self.flat += expected.std() < laws.LEAST_SPREAD
                for form, values in made.items():
                    values = values[:, ::factor, ::factor]
                    assert values.shape == expected.shape, message
                    error = float(np.abs(values - expected).max()) / scale
                    assert error <= self.bounds[form], f"{form}, {message}: {error}"
                    self.worst[form] = max(self.worst[form], error)
                    self.maps += 1
                    self.values += values.size
                    self.subsampled += factor > 1
        self.networks += 1
        if self.networks % 20 == 0:
            keras.utils.clear_session()  # which takes half a second

    def figures(self):
        assert 3 * self.flat < self.maps  # features without spread say little, and not all may be such
        worst = {f"worst_{form}": error for form, error in self.worst.items()}
        counted = {
            "maps_compared": self.maps,
            "of_them_subsampled": self.subsampled,
            "without_spread": 3 * int(self.flat),
            "values_compared": self.values,
        }
        return {"networks": self.networks} | counted | worst


def sizes_of(random):
    """Two even sides, an odd and an even one, 32n + 1 and any."""
    pairs = 2 * random.integers(8, 56, 2), 2 * random.integers(8, 56, 2) + (1, 0)
    return [tuple(map(int, pair)) for pair in (*pairs, (random.choice([33, 65, 97]), random.integers(16, 112)))]


# -- TF-Slim -----------------------------------------------------------------------------------------------------------


def slims(network, weights):
    """A function of images: the features of tf_slim.nets."""
    from tf_slim.nets import resnet_utils, resnet_v1, resnet_v2

    module, builder = {V1: (resnet_v1, "resnet_v1"), V2: (resnet_v2, "resnet_v2")}[network.kind]
    blocks = [
        resnet_utils.Block(scope, module.bottleneck, [{k: v for k, v in unit.items() if k != "stride_at"} for unit in units])
        for scope, units in network.blocks
    ]
    v1 = tf.compat.v1
    session = v1.Session(graph=tf.Graph())
    with session.graph.as_default(), slim.arg_scope(module.resnet_arg_scope()):
        images = v1.placeholder(tf.float32, [None, None, None, network.in_channels])
        net, _ = getattr(module, builder)(
            images,
            blocks,
            is_training=False,
            global_pool=False,
            output_stride=network.output_stride,
            include_root_block=bool(network.root),
            scope="net",
        )
        for variable in v1.global_variables():
            variable.load(weights[variable.op.name], session)
    return session.make_callable(net, [images])


def test_tf_slim(campaign):
    compared = Compared(exact=NOISE_OF_SLIM)
    for _, random in campaign.cases(short=2):
        kinds, roots = (V1, V2), ("slim", "slim", None)
        network = replace(random_network(random, kinds, roots, (3, 2, 16), fewest=8, rates=False), num_classes=None)
        for _, units in network.blocks:
            for unit in units:
                unit["stride_at"] = "conv2"
        weights = weights_of(network.plan())
        network = replace(network, output_stride=network.output_stride or network.nominal_stride)
        compared.forms(network, weights, random, {network.output_stride: slims(network, weights)})
    campaign.report(**compared.figures())


# -- Keras Applications ------------------------------------------------------------------------------------------------


def applications(network, weights):
    """A function of images: the features of the model that Keras' own function of stacks builds."""
    from keras.src.applications import resnet

    preactivation = network.kind == V2
    stack = resnet.stack_residual_blocks_v2 if preactivation else resnet.stack_residual_blocks_v1

    def stacks(net):
        for number, (_, units) in enumerate(network.blocks, 2):
            stride = max(unit["stride"] for unit in units)
            net = stack(net, units[0]["depth_bottleneck"], len(units), stride, name=f"conv{number}")
        return net

    shape = (None, None, network.in_channels)
    model = resnet.ResNet(stacks, preactivation, True, include_top=False, weights=None, input_shape=shape)
    scopes = {"conv1_conv": "net/conv1", "conv1_bn": "net/conv1/BatchNorm", "post_bn": "net/postnorm"}
    for number, (scope, units) in enumerate(network.blocks, 2):
        for count in range(1, len(units) + 1):
            theirs, ours = f"conv{number}_block{count}", f"net/{scope}/unit_{count}/{network.kind}"
            scopes[f"{theirs}_preact_bn"] = f"{ours}/preact"
            for place, part in enumerate(("shortcut", "conv1", "conv2", "conv3")):
                scopes[f"{theirs}_{place}_conv"] = f"{ours}/{part}"
                scopes[f"{theirs}_{place}_bn"] = f"{ours}/{part}/BatchNorm"
    for layer in model.layers:
        if not layer.weights:
            continue
        scope = scopes[layer.name]
        if layer.name.endswith("_conv"):
            values = [weights[f"{scope}/weights"]]
            if layer.use_bias:  # where a batch norm follows, a bias that its mean takes away again
                values.append(weights.get(f"{scope}/biases", bias_of(weights[f"{scope}/weights"])))
        else:
            gamma, beta, average, variance = (weights[f"{scope}/{leaf}"] for leaf in
                                              ("gamma", "beta", "moving_mean", "moving_variance"))  # fmt: skip
            kernel = weights.get(f"{scope.removesuffix('/BatchNorm')}/weights")
            if kernel is not None and model.get_layer(layer.name.removesuffix("bn") + "conv").use_bias:
                average = average + bias_of(kernel)
            values = [gamma, beta, average, variance + np.float32(EPSILON - 1.001e-5)]
        layer.set_weights(values)
    return lambda images: model(images).numpy()


def bias_of(kernel):
    return np.linspace(-0.2, 0.3, kernel.shape[-1], dtype=np.float32)


def test_keras_applications(campaign):
    """They have their nominal stride alone; a dense network's features are to be theirs where both have a cell."""
    compared = Compared()
    for _, random in campaign.cases(short=2):
        kind = (V1, V2)[random.integers(2)]
        blocks, filters = [], 16
        for number in range(1, random.integers(1, 4) + 1):
            filters = int(random.choice([one for one in range(2, 7) if one != filters]))
            stride, count = int(random.integers(1, 3)), int(random.integers(2, 4))
            units = [
                {"depth": 4 * filters, "depth_bottleneck": filters, "stride": 1, "stride_at": "conv2"} for _ in range(count)
            ]
            units[-1 if kind == V2 else 0] |= {"stride": stride, "stride_at": "conv2" if kind == V2 else "conv1"}
            blocks.append((f"block{number}", units))
        network = Network(kind, blocks, "keras" if kind == V2 else "symmetric", None)
        reachable = [stride for stride in (4, 8, 16, 32) if stride <= network.nominal_stride]
        dense = replace(network, output_stride=int(random.choice(reachable)))
        weights = weights_of(network.plan())
        compared.forms(dense, weights, random, {network.nominal_stride: applications(network, weights)})
    campaign.report(**compared.figures())


# -- timm --------------------------------------------------------------------------------------------------------------


def test_timm(campaign, timm_resnet):
    compared = Compared()
    for _, random in campaign.cases(short=2):
        kind = (V1, BASIC)[random.integers(2)]
        layers = random.integers(1, 3, 4)
        channels = [int(one) for one in random.permutation(np.arange(8, 20))[:4]]
        network = timms_network(kind, layers, channels, int(random.choice([8, 16, 32])), int(random.choice([1, 3, 4])))
        weights = weights_of(network.plan())
        compared.forms(network, weights, random, {network.output_stride: timms(network, weights, channels, timm_resnet)})
    campaign.report(**compared.figures())


def timms_network(kind, layers, channels, output_stride, in_channels):
    """As torchvision's too: strides in a stage's first unit, in its first 3x3."""
    blocks = []
    for number, (count, channel) in enumerate(zip(layers, channels, strict=True), 1):
        depths = {"depth": channel} if kind == BASIC else {"depth": 4 * channel, "depth_bottleneck": channel}
        units = [depths | {"stride": 1, "stride_at": "conv1" if kind == BASIC else "conv2"} for _ in range(count)]
        units[0]["stride"] = 1 if number == 1 else 2
        blocks.append((f"block{number}", units))
    return Network(kind, blocks, "symmetric", output_stride, in_channels=in_channels)


def timms(network, weights, channels, timm_resnet):
    """A function of images: timm's features, in float64."""
    torch = pytest.importorskip("torch")
    block = timm_resnet.BasicBlock if network.kind == BASIC else timm_resnet.Bottleneck
    layers = [len(units) for _, units in network.blocks]
    arguments = {"num_classes": 0, "in_chans": network.in_channels, "output_stride": network.output_stride}
    model = timm_resnet.ResNet(block, layers, channels=channels, **arguments).double().eval()
    parts = {"conv1": "net/conv1", "bn1": "net/conv1/BatchNorm"}
    for number, (scope, units) in enumerate(network.blocks, 1):
        for count in range(len(units)):
            theirs, ours = f"layer{number}.{count}", f"net/{scope}/unit_{count + 1}/{network.kind}"
            parts |= {f"{theirs}.downsample.0": f"{ours}/shortcut", f"{theirs}.downsample.1": f"{ours}/shortcut/BatchNorm"}
            for place in (1, 2, 3):
                parts |= {
                    f"{theirs}.conv{place}": f"{ours}/conv{place}",
                    f"{theirs}.bn{place}": f"{ours}/conv{place}/BatchNorm",
                }
    leaves = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    state = {}
    for name, value in model.state_dict().items():
        part, leaf = name.rsplit(".", 1)
        if leaf == "num_batches_tracked":
            continue
        if value.ndim == 4:
            own = weights[f"{parts[part]}/weights"].transpose(3, 2, 0, 1)
        else:
            own = weights[f"{parts[part]}/{leaves[leaf]}"]
        state[name] = torch.from_numpy(own.copy())
    assert not model.load_state_dict(state, strict=False).unexpected_keys

    def run(images):
        with torch.no_grad():
            batch = torch.from_numpy(np.float64(images.transpose(0, 3, 1, 2)))
            return model.forward_features(batch).numpy().transpose(0, 2, 3, 1)

    return run


# -- PyTorch's layers --------------------------------------------------------------------------------------------------


class InPyTorch:
    """The operations of `walk` by torch.nn.functional, in float64."""

    def __init__(self, weights, torch):
        self.weights = {name: torch.from_numpy(np.float64(value)) for name, value in weights.items()}
        self.functional = torch.nn.functional

    def convolve(self, net, layer):
        kernel = self.weights[f"{layer.name}/weights"].permute(3, 2, 0, 1)
        bias = None if layer.norm else self.weights[f"{layer.name}/biases"]
        padding = layer.rate * (layer.kernel - 1) // 2
        net = self.functional.conv2d(net, kernel, bias, layer.stride, padding, layer.rate)
        if layer.norm:
            net = self._norm(net, f"{layer.name}/BatchNorm")
        return net.relu() if layer.relu else net

    def _norm(self, net, scope):
        leaves = ("moving_mean", "moving_variance", "gamma", "beta")
        return self.functional.batch_norm(net, *(self.weights[f"{scope}/{leaf}"] for leaf in leaves), eps=EPSILON)

    def normalize(self, net, scope, depth):
        return self._norm(net, scope).relu()

    def pool(self, net, layer):
        pads = (1, 1, 1, 1)
        if layer.padding == "SAME":  # one cell behind an even side, one on either side of an odd one
            pads = [side % 2 if end == 0 else 1 for side in (net.shape[3], net.shape[2]) for end in (0, 1)]
        outside = 0 if layer.padding == "zeros" else -np.inf
        return self.functional.max_pool2d(self.functional.pad(net, pads, value=outside), layer.kernel, layer.stride)

    def subsample(self, net, stride):
        return net[:, :, ::stride, ::stride]

    def add(self, shortcut, residual, relu):
        return (shortcut + residual).relu() if relu else shortcut + residual


def pytorch_features(network, weights, torch):
    """A function of images: the features of the network at its output_stride, by native dilation."""
    operations = InPyTorch(weights, torch)

    def run(images):
        net = torch.from_numpy(np.float64(images).transpose(0, 3, 1, 2).copy())
        return walk(network, operations, net).numpy().transpose(0, 2, 3, 1)

    return run


def test_pytorch(campaign):
    """Any network; dense ones at their own stride, then against the nominal one's features."""
    torch = pytest.importorskip("torch")
    compared = Compared()
    dense = 0
    for _, random in campaign.cases(short=4):
        network = replace(random_network(random, most=(3, 2, 16), fewest=8), num_classes=None)
        try:
            plan, nominal = network.plan(), network.nominal.plan()
        except InputError as error:
            assert "a convolution cannot have both" in str(error)
            continue
        weights = weights_of(plan)
        references = {plan.output_stride: pytorch_features(network, weights, torch)}
        references |= {nominal.output_stride: pytorch_features(network.nominal, weights, torch)}
        compared.forms(network, weights, random, references)
        dense += plan.output_stride < nominal.output_stride
    campaign.report(**compared.figures(), dense_networks=dense)
