"""PyTorch's files: features equal timm's, every container gives the same arrays, and nothing in a file is ever run."""

import argparse
import collections
import contextlib
import io
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.networks import images_of

import dense_resnet as dr
from dense_resnet.checkpoints.containers import pickle_machine, torch_pickle
from dense_resnet.checkpoints.containers import safetensors as own_safetensors
from dense_resnet.checkpoints.names import torch_resnet
from dense_resnet.errors import InputError
from dense_resnet.planning import variants
from dense_resnet.verification import laws

DEPTHS = (18, 34, 50, 101, 152, 200)
MEMORY = 2**26  # that refusing any file may take


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def randomize_statistics(torch, model):
    """`model` with statistics that no untrained one has, and gammas of both signs."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if value.ndim == 1 and value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            positive = name.endswith(("running_var", ".weight"))
            value.copy_(noise + 0.5 if positive else 0.4 * noise - 0.2)
            if name.endswith(".weight"):
                value[::5] *= -1
    return model.eval()


def arrays_of(model):
    return {name: value.numpy() for name, value in model.state_dict().items()}


# --------------------------------------------------------------------------------------------------------------------
# timm's networks


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "output_stride"), [(18, 32), (18, 16), (18, 8), (34, 16), (50, 32), (50, 16), (50, 8)])
def test_features_are_those_of_timm(depth, output_stride, torch, timm_resnet):
    theirs = randomize_statistics(torch, getattr(timm_resnet, f"resnet{depth}")(output_stride=output_stride, num_classes=7))
    ours = dr.Backbone(f"resnet_v1_5_{depth}", output_stride, num_classes=7)
    assert ours.assign(torch_resnet.canonical(arrays_of(theirs), "timm")).complete
    images = images_of((65, 96))  # one side of 32n+1 pixels and an even one
    with torch.no_grad():
        batch = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        features = theirs.forward_features(batch).numpy().transpose(0, 2, 3, 1)
        logits = theirs(batch).numpy()
    assert features.std() > 1e-2
    assert laws.relative_error(ours(images), features) <= 1e-4
    if output_stride == 32:
        assert laws.relative_error(ours.logits(images), logits) <= 1e-4


@pytest.mark.parametrize("depth", DEPTHS)
def test_names_are_one_to_one_for_every_depth(depth, torch, timm_resnet):
    with torch.device("meta"):
        state = getattr(timm_resnet, f"resnet{depth}")().state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}
    plan = variants.plan(f"resnet_v1_5_{depth}", num_classes=1000)
    table = torch_resnet.names(plan)
    assert set(table) == {variable.name for variable in plan.variables}
    assert sorted(table.values()) == sorted(shapes)
    weights = torch_resnet.canonical(empty(state), "timm")
    assert {name: value.shape for name, value in weights.items()} == {name: shape for name, shape, _ in plan.variables}


def empty(state):
    """Arrays of the shapes of `state`, which take no memory."""
    return {name: np.broadcast_to(np.float32(0), tuple(value.shape)) for name, value in state.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "model.encoder."])
def test_prefixes_are_stripped_and_other_names_kept(prefix):
    plan = variants.plan("resnet_v1_5_18")
    arrays = state_of(plan, prefix) | {"decode_head.conv.weight": np.ones((1, 1, 1, 1), np.float32)}
    arrays[f"{prefix}bn1.num_batches_tracked"] = np.float32(7)
    assert torch_resnet.recognizes(arrays)
    weights = torch_resnet.canonical(arrays, "w.pth")
    assert set(weights) == {variable.name for variable in plan.variables} | {"decode_head.conv.weight"}
    kernel = weights["resnet_v1_5_18/block2/unit_1/lite_bottleneck_v1/conv1/weights"]
    assert np.array_equal(kernel[2, 1, 5, 9], arrays[f"{prefix}layer2.0.conv1.weight"][9, 5, 2, 1])
    assert kernel.dtype == np.float32
    assert kernel.flags.c_contiguous


def state_of(plan, prefix=""):
    """A state dict with the names and shapes of `plan`."""
    generator = np.random.default_rng(0)
    shapes = {variable.name: variable.shape for variable in plan.variables}
    turned = {theirs: (*shapes[ours][:1:-1], *shapes[ours][:2]) if len(shapes[ours]) == 4 else shapes[ours]
              for ours, theirs in torch_resnet.names(plan).items()}  # fmt: skip
    return {f"{prefix}{name}": generator.standard_normal(shape).astype(np.float32) for name, shape in turned.items()}


def test_one_channel_and_no_classifier():
    weights = torch_resnet.canonical(state_of(variants.plan("resnet_v1_5_50", in_channels=1)), "w.pth")
    assert weights["resnet_v1_5_50/conv1/weights"].shape == (7, 7, 1, 64)
    assert "resnet_v1_5_50/logits/weights" not in weights


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet50d", "deep stem"),
        ("resnet50c", "deep stem"),
        ("resnet26", "2, 2, 2, 2 bottleneck units"),
        ("resnet50_gn", "without stored statistics"),
        ("wide_resnet50_2", "2 times as wide"),
        ("resnext50_32x4d", "32 groups"),
        ("seresnet50", "attention"),
        ("resnetaa50d", "deep stem"),
    ],
)
def test_networks_that_are_no_plain_resnet_are_named(name, reason, torch, timm_resnet):
    with torch.device("meta"):
        arrays = empty(getattr(timm_resnet, name)().state_dict())
    assert torch_resnet.recognizes(arrays)
    with pytest.raises(InputError, match=rf"^w\.pth: .*({reason}).*Supported: plain ResNets .* layers\.$"):
        torch_resnet.canonical(arrays, "w.pth")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layer2.0.conv2.1.weight": np.ones((1, 1, 1, 1))}, "has an array layer2.0.conv2.1.weight"),
        ({"layer2.0.downsample.1.weight": np.ones((1, 1, 1, 1))}, "averages in its shortcuts"),
        ({"layer5.0.conv1.weight": np.ones(1), "layer2.0.extra": np.ones(1)}, "has an array layer2.0.extra"),
        ({"layer4.7.conv1.weight": np.ones(1)}, "2, 2, 2, 8 basic units"),
        ({"layer4.1.bn2.weight": np.ones(3)}, r"as \[3\] where resnet_v1_5_18 has \[512\]"),
        ({"stem.0.weight": np.ones(3)}, "deep stem"),
        ({"conv1.weight": np.ones(3)}, "no conv1.weight, the first convolution"),
        ({"conv1.weight": np.ones((64, 0, 7, 7))}, "no conv1.weight, the first convolution"),
        ({"layer1.0.conv1.weight": np.ones(())}, r"has layer1\.0\.conv1\.weight as \[\], which is not a convolution"),
        ({"other.layer1.0.conv1.weight": np.ones(1)}, "it contains 2 networks, under '', 'other.'"),
    ],
)
def test_networks_that_do_not_fit_are_named(changes, reason):
    with pytest.raises(InputError, match=f"^w.pth: .*{reason}"):
        torch_resnet.canonical(state_of(variants.plan("resnet_v1_5_18")) | changes, "w.pth")


def test_preactivation_resnets_of_timm_are_named():
    arrays = {"stem.conv.weight": np.ones((64, 3, 7, 7)), "stages.0.blocks.0.conv1.weight": np.ones((64, 64, 1, 1))}
    assert torch_resnet.recognizes(arrays)
    with pytest.raises(InputError, match="pre-activation ResNet"):
        torch_resnet.canonical(arrays, "w.pth")
    assert not torch_resnet.recognizes({"resnet_v1_5_18/conv1/weights": np.ones(1), "mylayer1.0.conv1.weight": np.ones(1)})


# --------------------------------------------------------------------------------------------------------------------
# What PyTorch writes


def save_torch(torch, tmp_path, value, form="zip", **options):
    path = tmp_path / f"{form}.pth"
    torch.save(value, path, _use_new_zipfile_serialization=form == "zip", **options)
    return path


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_every_container_gives_the_same_arrays(form, torch, timm_resnet, tmp_path):
    from safetensors.torch import save_file

    state = randomize_statistics(torch, timm_resnet.resnet18(num_classes=3)).state_dict()
    save_file(state, tmp_path / "weights.safetensors")
    reference = own_safetensors.read(tmp_path / "weights.safetensors")
    values = torch_pickle.read(save_torch(torch, tmp_path, state, form))
    assert list(values) == [name for name in state if not name.endswith("num_batches_tracked")]
    assert set(values) == set(reference)
    assert all(same(values[name], reference[name]) for name in values)


def same(one, other):
    return one.dtype == other.dtype == np.float32 and one.shape == other.shape and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_of_every_kind(form, protocol, torch, tmp_path):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 6, generator=generator)
    shared = torch.arange(12.0)
    with_attribute = torch.ones(2)
    with_attribute.note = "seen"
    state = {
        "float32": values,
        "float64": values.double() / 3,
        "too_large": torch.tensor([1e300], dtype=torch.float64),
        "float16": values.half(),
        "bfloat16": values.bfloat16(),
        "bfloat16_scalar": torch.tensor(1.5, dtype=torch.bfloat16),
        "transposed": values.t(),
        "permuted": torch.randn(2, 3, 4, generator=generator).permute(2, 0, 1).bfloat16(),
        "channels_last": torch.randn(2, 3, 4, 5, generator=generator).to(memory_format=torch.channels_last),
        "every_other": values[:, ::2],
        "parameter": torch.nn.Parameter(values.clone()),
        "with_attribute": with_attribute,
        "first": shared[:5],
        "second": shared[3:].view(3, 3),
        "tied": shared,
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }
    integers = {"steps": torch.tensor(3), "mask": torch.ones(2, dtype=torch.bool), "wide": torch.ones(2, dtype=torch.uint16)}
    read = torch_pickle.read(save_torch(torch, tmp_path, state | integers, form, pickle_protocol=protocol))
    assert set(read) == set(state)
    for name, value in state.items():
        assert same(read[name], value.detach().float().contiguous().numpy()), name
        assert read[name].flags.writeable
        assert read[name].flags.c_contiguous


@pytest.mark.filterwarnings("ignore:CUDA initialization")  # of a build for CUDA, where there is none
def test_checkpoints_of_trainings(torch, tmp_path):
    """What DataParallel, timm's and PyTorch's own training scripts leave in a file."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3, 2, 2)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    state = torch.nn.DataParallel(model).state_dict()
    average = {name: value + 1 for name, value in state.items()}
    rest = {
        "epoch": 7, "arch": "resnet50", "best_acc1": torch.tensor(71.5), "metric": np.float64(1.5), "betas": [(0.9, None), {}],
        "args": argparse.Namespace(lr=0.1, sizes={1, 2}), "optimizer": optimizer.state_dict(), "device": torch.device("cpu"),
        "scheduler": scheduler.state_dict(), "size": torch.Size([3, 4]), "state_dict_ema": average,
    }  # fmt: skip
    for key in ("state_dict", "model", "model_state_dict"):
        for form in ("zip", "legacy"):
            read = torch_pickle.read(save_torch(torch, tmp_path, {**rest, key: state}, form))
            assert set(read) == {name for name in state if not name.endswith("tracked")}
            assert all(same(read[name], state[name].numpy()) for name in read)
    read = torch_pickle.read(save_torch(torch, tmp_path, rest))
    assert all(same(read[name], average[name].numpy()) for name in read)


def test_a_pickled_model_is_refused_by_name(torch, tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    for form in ("zip", "legacy"):
        path = save_torch(torch, tmp_path, model, form)
        with pytest.raises(InputError, match=r"torch\.nn\.modules\.container\.Sequential.*torch\.save\(model\.state_dict\(\)"):
            torch_pickle.read(path)


@pytest.mark.parametrize("kind", ["complex64", "float8_e4m3fn"])
def test_numbers_that_are_not_read_are_named(kind, torch, tmp_path):
    state = {"weight": torch.zeros(2, dtype=getattr(torch, kind))}
    with pytest.raises(InputError, match="refers to torch.(ComplexFloatStorage|float8_e4m3fn)"):
        torch_pickle.read(save_torch(torch, tmp_path, state))


@pytest.mark.parametrize("value", [[], 3, {}, {"a": {"b": 1}}, {"a": "text"}])
def test_files_without_tensors(value, torch, tmp_path):
    for form in ("zip", "legacy"):
        with pytest.raises(InputError, match="no state dict|no tensors"):
            torch_pickle.read(save_torch(torch, tmp_path, value, form))


# --------------------------------------------------------------------------------------------------------------------
# Files by hand: a small assembler for pickles

NUMBERS = np.arange(8, dtype="<f4")
STORED = NUMBERS.tobytes()


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    coded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(coded)]) + coded


def tuple_of(*values):
    return b"(" + b"".join(values) + b"t"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def call(module, attribute, *arguments):
    return name(module, attribute) + tuple_of(*arguments) + b"R"


def storage(key="0", count=8, kind=("torch", "FloatStorage"), *more):
    return tuple_of(text("storage"), name(*kind), text(key), text("cpu"), number(count), *more) + b"Q"


def tensor(size=(8,), stride=(1,), offset=0, stored=None, more=(), version="_v2"):
    offset = offset if isinstance(offset, bytes) else number(offset)
    numbers = (tuple_of(*map(number, values)) for values in (size, stride))
    arguments = (stored or storage(), offset, *numbers, b"\x89", call("collections", "OrderedDict"), *more)
    return call("torch._utils", f"_rebuild_tensor{version}", *arguments)


def entries(**values):
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


def program(value):
    return b"\x80\x02" + value + b"."


def archive(path, value, members=(), how=zipfile.ZIP_STORED):
    """A file of the zip form: `value` is what its data.pkl makes; `members` replace or join the others."""
    contents = {"a/data.pkl": program(value), "a/version": b"3", "a/byteorder": b"little", "a/data/0": STORED} | dict(members)
    with zipfile.ZipFile(path, "w", how) as file:
        for member, content in contents.items():
            file.writestr(member, content)
    return path


def legacy(path, value, keys=("0",), stored=((8, STORED),), system=b"\x88", magic=torch_pickle.MAGIC_NUMBER):
    """A file of the form before."""
    header = [number(magic), number(1001), entries(little_endian=system), value, b"](" + b"".join(map(text, keys)) + b"e"]
    data = b"".join(struct.pack("<q", count) + content for count, content in stored)
    path.write_bytes(b"".join(map(program, header)) + data)
    return path


FORMS = pytest.mark.parametrize("form", [archive, legacy])


@contextlib.contextmanager
def little_memory():
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


def assert_refused(path, reason):
    """Asserts that `path` is refused, with its name, the reason and little memory."""
    with little_memory(), pytest.raises(InputError, match=reason) as caught:
        torch_pickle.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 1000


@FORMS
def test_assembled_pickles_are_read(form, tmp_path):
    read = torch_pickle.read(form(tmp_path / "w.pth", entries(w=tensor(), m=tensor((2, 3), (1, 2), 1))))
    assert np.array_equal(read["w"], NUMBERS)
    assert np.array_equal(read["m"], [[1, 3, 5], [2, 4, 6]])


@FORMS
def test_assembled_pickles_are_read_by_pytorch(form, torch, tmp_path):
    no_view = [b"N"] if form is legacy else []
    stored = storage("0", 8, ("torch", "FloatStorage"), *no_view)
    path = form(tmp_path / "w.pth", entries(m=tensor((2, 3), (1, 2), 1, stored)))
    assert np.array_equal(torch.load(path, weights_only=True)["m"], torch_pickle.read(path)["m"])


def test_pytorch_files_of_2017_are_read(torch, tmp_path):
    """Python 2's texts, dictionaries of pairs, and parameters with their state, as in the first published weights."""
    short = b"U\x01w"
    kept = tuple_of(b"U\x07storage", name("torch", "FloatStorage"), b"U\x010", b"U\x03cpu", number(8), b"N") + b"Q"
    rebuilt = call("torch._utils", "_rebuild_tensor", kept, number(2), tuple_of(number(3)), tuple_of(number(2)))
    flags = tuple_of(b"\x88", b"\x89", call("collections", "OrderedDict"))
    parameter = name("torch.nn.parameter", "Parameter") + rebuilt + b"\x85R" + flags + b"b"
    pairs = call("collections", "OrderedDict", b"](](" + short + parameter + b"ee")
    path = legacy(tmp_path / "w.pth", pairs)
    assert np.array_equal(torch_pickle.read(path)["w"], [2, 4, 6])
    assert np.array_equal(torch.load(path, weights_only=True)["w"].detach(), [2, 4, 6])


# --------------------------------------------------------------------------------------------------------------------
# Nothing is run


def attacks(folder):
    """Pickles that make `folder`, each in another way."""
    path = text(str(folder))
    make = name("os", "mkdir")
    return {
        "a global": make + tuple_of(path) + b"R",
        "a global from the stack": text("os") + text("mkdir") + b"\x93" + tuple_of(path) + b"R",
        "a dotted global": text("shutil") + text("os.mkdir") + b"\x93" + tuple_of(path) + b"R",
        "inst": b"(" + path + b"ios\nmkdir\n",
        "obj": b"(" + make + path + b"o",
        "eval": call("builtins", "eval", text(f"__import__('os').mkdir({str(folder)!r})")),
        "newobj": name("zipfile", "ZipFile") + tuple_of(path, text("w")) + b"\x81",
        "newobj_ex": name("zipfile", "ZipFile") + tuple_of(path, text("w")) + b"}\x92",
        "in a state dict": entries(w=tensor(), state_dict=make + tuple_of(path) + b"R"),
        "within an admitted call": call("collections", "OrderedDict", b"](](" + text("w") + make + tuple_of(path) + b"Ree"),
        "in the state of one": call("collections", "OrderedDict") + make + tuple_of(path) + b"Rb",
    }


@FORMS
@pytest.mark.parametrize("attack", list(attacks("")))
def test_no_code_is_run(attack, form, tmp_path):
    folder = tmp_path / "made"
    value = attacks(folder)[attack]
    if attack not in ("newobj", "newobj_ex", "in a state dict"):  # what cannot be tried alone
        stack_global = attack in ("a global from the stack", "a dotted global")
        with contextlib.suppress(TypeError):  # of what pickle does after having made the folder
            pickle.loads((b"\x80\x04" if stack_global else b"\x80\x02") + value + b".")
        assert folder.is_dir(), "no attack"
        folder.rmdir()
    assert_refused(form(tmp_path / "w.pth", value), "refers to (os|builtins|shutil|zipfile)|instruction (INST|NEWOBJ_EX)")
    assert not folder.exists()


@FORMS
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"\x82\x01", "instruction EXT1"),
        (b"\x84\x01\x00\x00\x00", "instruction EXT4"),
        (b"Pos.system\n", "instruction PERSID"),
        (b"I1\n", "instruction INT"),
        (b"L1L\n", "instruction LONG"),
        (b"\x8e" + struct.pack("<Q", 2**60), "instruction BINBYTES8"),
        (b"\x96" + struct.pack("<Q", 2**60), "instruction BYTEARRAY8"),
        (b"]2", "instruction DUP"),
        (b"]}b", "sets the state"),
        (name("torch", "FloatStorage") + b"}b", "sets the state"),
        (storage() + b"}b", "sets the state"),
        (tensor() + tuple_of(storage(), number(0), tuple_of(), tuple_of()) + b"b", "sets the state"),
        (call("torch", "FloatStorage"), "calls torch.FloatStorage"),
        (name("torch", "FloatStorage") + b")\x81", "calls torch.FloatStorage"),
        (call("torch", "float32"), "calls torch.float32"),
        (text("os.system") + b")R", "damaged"),
        (number(1) + number(2) + b"\x93", "damaged"),
        (tuple_of(text("module"), b"N", b"N", b"N", number(1)) + b"Q", "more than storages"),
        (text("0") + b"Q", "damaged"),
        (storage("0", 8, ("torch", "Size")), "torch.Size is not a storage"),
        (storage("0", 8, ("torch", "FloatStorage"), tuple_of(text("1"), number(0), number(1))), "views of others"),
        (storage() + storage("0", 4), "has two types or sizes"),
        (b"}" + tuple_of() + b"Ns", "keys that are no names or numbers"),
        (b"}" + number(2**61 - 1) + b"Ns", "keys that are no names or numbers"),  # of many with the same hash
        (b"}G" + bytes(8) + b"Ns", "keys that are no names or numbers"),
        (b"}" + text("w") + b"N" + b"s" + text("w") + b"Ns", "'w' occurs twice"),
        (b"cos\\x2e\nsystem\n", "refers to"),
        (b"ctorch\nFloatStorage", "no state dict|damaged|refers to"),
        (b"]" + b"." + b".", "no state dict"),
        (b"NN", "damaged"),
        (b"(N", "damaged"),
        (b"(", "damaged"),
        (b"", "damaged"),
        (b"t", "damaged"),
        (b"h\x05", "damaged"),
        (b"\x80\x09}", "pickle protocol 9"),
        (b"}(Nu", "damaged"),
        (b"X" + struct.pack("<I", 2**32 - 1), "damaged"),
        (b"X\x01\x00\x00\x00\xff", "damaged"),
    ],
)
def test_other_pickle_instructions_are_refused(value, reason, form, tmp_path):
    assert_refused(form(tmp_path / "w.pth", value), reason)


LAUGHS = b"]" + b"q\x00" + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(200))
HARMLESS = {  # pickles that grow without bounds for whoever walks, compares, copies or shows what they make
    "lists in lists": b"]" * 100_000 + b"a" * 99_999,
    "tuples in tuples": b"N" + b"\x85" * 100_000,
    "dictionaries in dictionaries": b"}N" * 100_000 + b"N" + b"s" * 100_000,
    "a list in itself": b"]q\x00h\x00a",
    "a dictionary in itself": b"}q\x00" + text("state_dict") + b"h\x00s",
    "tuples of tuples of tuples": b"(" + LAUGHS + b"t",
    "a high index": b"Nr" + struct.pack("<I", 2**31),
}


@pytest.mark.slow
@pytest.mark.parametrize("bomb", HARMLESS)
def test_bombs_beside_the_weights_are_ignored_and_alone_refused(bomb, tmp_path):
    value = HARMLESS[bomb]
    with pytest.raises(InputError, match="no state dict|no tensors"):
        torch_pickle.read(archive(tmp_path / "w.pth", value))
    with pytest.raises(InputError, match="no names or numbers|no tensors"):
        torch_pickle.read(archive(tmp_path / "w.pth", b"}" + value + b"Ns"))  # as a key
    path = archive(tmp_path / "w.pth", entries(bomb=value, w=tensor()))
    with little_memory():
        assert np.array_equal(torch_pickle.read(path)["w"], NUMBERS)


def test_endless_pickle_programs_are_refused(tmp_path):
    with pytest.raises(InputError, match="more than 500000 instructions"):
        torch_pickle.read(archive(tmp_path / "w.pth", b"(" * 10**6))
    assert_refused(archive(tmp_path / "w.pth", text("x" * torch_pickle.PICKLE_LIMIT)), "at most")
    assert_refused(legacy(tmp_path / "w.pth", text("x" * torch_pickle.PICKLE_LIMIT)), "damaged")


@pytest.mark.parametrize("kept", [True, False])
def test_short_programs_that_walk_through_one_list_again_and_again(kept, tmp_path):
    """6 million pairs in a few kB, each dictionary kept, or put into a Counter, which nothing is kept of."""
    pairs = b"](" + b"".join(text(str(number)) + b"N\x86" for number in range(2000)) + b"e\x85q\x02"
    again = b"h\x00h\x02R" + (b"" if kept else b"a")
    into = b"" if kept else call("collections", "Counter")
    value = name("collections", "OrderedDict") + b"q\x00" + pairs + into + again * 3000
    assert_refused(archive(tmp_path / "w.pth", value), "more than 500000 instructions")


# --------------------------------------------------------------------------------------------------------------------
# Numbers that lie


@FORMS
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (tensor((9,)), "reaches outside"),
        (tensor((8,), (1,), 1), "reaches outside"),
        (tensor((2, 2), (1, 8)), "reaches outside"),
        (tensor((1,), (1,), 8), "reaches outside"),
        (tensor((2,), (2**39,)), "reaches outside"),
        (tensor((8,), (1,), -1), "negative"),
        (tensor((-8,)), "negative"),
        (tensor((8,), (-1,)), "negative"),
        (tensor((2**63,)), "too large"),
        (tensor((2**39, 2**39), (1, 1)), "does not go with"),
        (tensor((2**39, 0, 2**39), (1, 1, 1)), "does not go with"),
        (tensor((8,), ()), "does not go with"),
        (tensor((), (1,)), "does not go with"),
        (tensor((1,) * 17, (1,) * 17), "more than 16 dimensions"),
        (tensor((2**30,), (0,)), "repeats its own elements"),
        (tensor((4, 4), (1, 1)), "repeats its own elements"),
        (tensor((2, 4, 1), (3, 1, 0)), "repeats its own elements"),
        (tensor(stored=storage("0", 2**41)), "too large"),
        (tensor(stored=storage("0", -8)), "negative"),
        (tensor(offset=b"G" + bytes(8)), "no number"),
        (tensor(offset=b"\x88"), "no number"),
        (tensor(stored=text("0")), "damaged"),
        (tensor(more=[entries(neg=b"\x88")]), "negative view"),
        (tensor(more=[name("torch", "float64")], version="_v3"), "reaches outside"),
        (call("torch._utils", "_rebuild_tensor_v2"), "damaged"),
    ],
)  # fmt: skip
def test_tensors_outside_of_their_storage(value, reason, form, tmp_path):
    assert_refused(form(tmp_path / "w.pth", entries(w=value)), reason)


@FORMS
def test_tensors_that_repeat_one_another(form, tmp_path):
    count = 2**16
    stored = np.zeros(count, "<f4").tobytes()
    shared = tensor((count,), stored=storage("0", count)) + b"q\x00"
    value = b"}(" + text("w") + shared + b"".join(text(str(i)) + b"h\x00" for i in range(10_000)) + b"u"
    options = {"stored": ((count, stored),)} if form is legacy else {"members": {"a/data/0": stored}}
    assert_refused(form(tmp_path / "w.pth", value, **options), "repeat one another")


def test_empty_tensors_have_their_shape(tmp_path):
    assert torch_pickle.read(archive(tmp_path / "w.pth", entries(w=tensor((0, 3), (3, 1), 40))))["w"].shape == (0, 3)


# --------------------------------------------------------------------------------------------------------------------
# Archives that lie

PLAIN = entries(w=tensor())


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"a/data/0": b"1234"}, "must have 32 bytes and has 4"),
        ({"a/data/0": bytes(33)}, "must have 32 bytes and has 33"),
        ({"../../x": b""}, r"'\.\./\.\./x' would lie outside"),
        ({"/etc/x": b""}, "would lie outside"),
        ({"a\\..\\x": b""}, "would lie outside"),
        ({"a/byteorder": b"big"}, "big-endian"),
        ({"a/constants.pkl": b""}, "TorchScript"),
        ({"a/code/__torch__.py": b""}, "TorchScript"),
        ({"b/data.pkl": b""}, "2 PyTorch files"),
    ],
)
def test_members_that_do_not_fit(members, reason, tmp_path):
    assert_refused(archive(tmp_path / "w.pth", PLAIN, members), reason)


def test_a_storage_that_is_not_there(tmp_path):
    assert_refused(
        archive(tmp_path / "w.pth", entries(w=tensor(stored=storage("../0")))), "data/../0 must have 32 bytes and is not there"
    )
    assert_refused(legacy(tmp_path / "w.pth", entries(w=tensor(stored=storage("1")))), "list of storages")


def test_duplicate_members_are_refused(tmp_path):
    path = archive(tmp_path / "w.pth", PLAIN)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as file:
        warnings.simplefilter("ignore")
        file.writestr("a/data/0", bytes(32))
    assert_refused(path, "occurs twice")


def test_packed_archives_are_read_and_bombs_are_not(tmp_path):
    path = archive(tmp_path / "w.pth", PLAIN, how=zipfile.ZIP_DEFLATED)
    assert np.array_equal(torch_pickle.read(path)["w"], NUMBERS)
    assert_refused(
        archive(tmp_path / "w.pth", PLAIN, {"a/data/1": bytes(10**8)}, zipfile.ZIP_DEFLATED), "claim to unpack to 100"
    )
    assert_refused(archive(tmp_path / "w.pth", PLAIN, how=zipfile.ZIP_BZIP2), "PyTorch never uses")


def patch_bytes(path, at, value):
    content = bytearray(path.read_bytes())
    content[at : at + len(value)] = value
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        (8, b"\x01\x00", "encrypted"),
        (16, b"\0\0\0\0", "CRC-32"),
        (20, struct.pack("<I", 4), "declares 32|CRC-32"),
        (24, struct.pack("<I", 2**31), "claim to unpack"),
        (24, struct.pack("<I", 64), "64"),
        (42, struct.pack("<I", 2**31), "zip archive"),
    ],
)
def test_false_zip_headers_are_refused(field, value, reason, tmp_path):
    path = archive(tmp_path / "w.pth", PLAIN)
    entry = path.read_bytes().rindex(b"PK\x01\x02")  # of a/data/0, the last one in the directory
    assert_refused(patch_bytes(path, entry + field, value), reason)


def test_a_huge_zip_directory_is_refused(tmp_path):
    assert_refused(
        archive(tmp_path / "w.pth", PLAIN, {f"a/{number:0200}": b"" for number in range(9_000)}), "its directory has"
    )


def test_a_flipped_byte_anywhere_in_an_archive_is_found_or_does_not_matter(tmp_path):
    path = archive(tmp_path / "w.pth", PLAIN)
    content = path.read_bytes()
    found = 0
    for at in range(len(content)):
        patch_bytes(path, at, bytes([content[at] ^ 0xFF]))
        try:
            assert np.array_equal(torch_pickle.read(path)["w"], NUMBERS)
        except InputError:
            found += 1
        path.write_bytes(content)
    assert found > len(content) / 2


@FORMS
def test_files_that_are_cut_off(form, tmp_path):
    path = form(tmp_path / "w.pth", PLAIN)
    content = path.read_bytes()
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        with pytest.raises(InputError, match="^" + str(path)):
            torch_pickle.read(path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"magic": 7}, "torch.save did not write"),
        ({"system": b"\x89"}, "big-endian"),
        ({"keys": ()}, "list of storages"),
        ({"keys": ("0", "0")}, "list of storages"),
        ({"keys": ("1",)}, "list of storages"),
        ({"stored": ()}, "cut off"),
        ({"stored": ((7, STORED),)}, "must have 8 elements and has 7"),
        ({"stored": ((-8, STORED),)}, "must have 8 elements and has -8"),
        ({"stored": ((8, STORED[:-1]),)}, "has fewer"),
        ({"stored": ((8, STORED + b"x"),)}, "1 bytes follow"),
    ],
)
def test_false_legacy_files_are_refused(options, reason, tmp_path):
    assert_refused(legacy(tmp_path / "w.pth", PLAIN, **options), reason)


def of_zip(*names):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for member in names:
            file.writestr(member, b"")
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "an empty file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
        (b"PK\x03\x04" + bytes(99), "damaged or cut off"),
        (bytes(257) + b"ustar" + bytes(99), "tar archive"),
        (b"\x1f\x8b" + bytes(99), "gzip"),
        (b"\x93NUMPY" + bytes(99), "NumPy array"),
        (struct.pack("<Q", 20) + b'{"a": {"dtype": "F32"}}', "safetensors"),
        (b"<!DOCTYPE html><html>\n" * 30, "text that begins '<!DOCTYPE html>"),
        (b"version https://git-lfs.github.com/spec/v1\n", "text that begins 'version https"),
        (bytes(range(256)), "something else"),
        (pickle.dumps({"w": [1.0]}, 4), "torch.save did not write"),
        (of_zip("a.npy", "b.npy"), "NumPy .npz archive"),
        (of_zip("config.json", "model.weights.h5"), "Keras model"),
        (of_zip("a.txt"), "zip archive without PyTorch's data.pkl"),
        (of_zip("a/data.pkl/x"), "zip archive without PyTorch's data.pkl"),
    ],
)
def test_other_files_are_named(content, kind, tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    assert_refused(path, kind)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        torch_pickle.read(tmp_path / "w.pth")
    with pytest.raises(InputError, match="a folder, not a file"):
        torch_pickle.read(tmp_path)


def test_the_readers_import_neither_pickle_nor_torch():
    for module in (pickle_machine, torch_pickle, torch_resnet):
        source = Path(module.__file__).read_text()
        assert "import pickle\n" not in source
        assert "import torch" not in source
    assert not collections.Counter(pickle_machine.NAMES) & collections.Counter(
        ["builtins.eval", "os.system", "builtins.getattr"]
    )
