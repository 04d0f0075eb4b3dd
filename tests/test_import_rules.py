"""The house: a room imports only from rooms before its own, and planning costs no TensorFlow."""

import ast
import graphlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ROOMS = {  # of each package, from the ground up: a room imports from rooms before its own
    "dense_resnet": [
        ["errors"],
        ["planning"],
        ["jobs"],
        ["image_io"],
        ["compat", "preprocessing"],
        ["builders", "resnet_utils"],
        ["resnet_v1", "resnet_v2"],
        ["checkpoints"],
        ["inference"],
        ["backbone", "keras_resnet"],
        ["extraction"],
        ["verification"],
    ],
    "segmentation": [
        ["metrics"],
        ["data"],
        ["heads"],
        ["model"],
        ["prediction"],
        ["saving"],
        ["evaluation"],
        ["training"],
    ],
}
FACES = {"backbone", "compat", "errors", "keras_resnet", "preprocessing", "resnet_utils", "resnet_v1", "resnet_v2"}
FLOOR = {
    f"{package}.{room}": number for package, rooms in ROOMS.items() for number, names in enumerate(rooms) for room in names
}
PRIVATE = {  # modules that no other file touches
    "tensorflow.python": "dense_resnet.inference.onednn",
    "tf_keras": "dense_resnet.compat",
}


def name_of(file):
    """A file's dotted name."""
    return ".".join(part for part in file.relative_to(ROOT).with_suffix("").parts if part != "__init__")


def room_of(module):
    """The room that a module lies in, such as "dense_resnet.planning"."""
    return ".".join(module.split(".")[:2])


FILES = {name_of(file): file for package in ROOMS for file in sorted((ROOT / package).rglob("*.py"))}


def imports_of(source):
    """Every dotted name that the source imports at run time, lazily too; not those for type checkers."""
    tree = ast.parse(source)
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_a_file_in_dense_resnet_is_a_public_face():
    assert {file.stem for file in (ROOT / "dense_resnet").glob("*.py")} - {"__init__"} == FACES
    assert {file.stem for file in (ROOT / "segmentation").glob("*.py")} - {"__init__"} == {"model"}


def test_every_file_lies_in_a_room():
    assert {room_of(name) for name in FILES if "." in name} == set(FLOOR)


@pytest.mark.parametrize("name", FILES)
def test_a_room_imports_from_rooms_before_it(name):
    room = room_of(name)
    for imported in imports_of(FILES[name].read_text()):
        other = room_of(imported)
        if other != room and other in FLOOR and room in FLOOR and name.split(".")[0] == imported.split(".")[0]:
            assert FLOOR[other] < FLOOR[room], f"{name} imports {imported}, whose room is not before its own"
        above = ("tools",) if name.startswith("segmentation") else ("segmentation", "tools")
        assert not imported.startswith(above), f"{name} imports {imported}"
        for private, owner in PRIVATE.items():
            assert not imported.startswith(private) or name == owner, (
                f"{name} imports {imported}: {owner} is the place for that"
            )


def test_no_two_files_import_each_other():
    needs = {name: {one for one in imports_of(FILES[name].read_text()) if one in FILES} for name in FILES}
    order = graphlib.TopologicalSorter(
        {name: {one for one in others if not name.startswith(f"{one}.")} - {name} for name, others in needs.items()}
    )
    order.prepare()  # raises a CycleError that names the files


@pytest.mark.parametrize("name", ["dense_resnet.errors", *(name for name in FILES if room_of(name) == "dense_resnet.planning")])
def test_planning_is_plain_python(name):
    allowed = sys.stdlib_module_names | {"dense_resnet"}
    assert all(imported.split(".")[0] in allowed for imported in imports_of(FILES[name].read_text()))


def test_the_rule_sees_a_breach():
    assert "tensorflow" in list(imports_of("def f():\n    import tensorflow"))
    assert list(imports_of("if TYPE_CHECKING:\n    import tensorflow")) == []


def modules_after(code):
    """The top-level modules in a fresh interpreter after `code`."""
    code += "\nimport json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_planning_imports_no_tensorflow():
    loaded = modules_after("import dense_resnet as dr; dr.plan('resnet_v2_152', output_stride=16).describe((513, 513))")
    assert "dense_resnet" in loaded
    assert not loaded & {"tensorflow", "tf_slim", "tf_keras", "keras", "numpy", "cv2", "PIL", "safetensors"}


def test_what_checks_requests_imports_no_tensorflow():
    light = [
        "dense_resnet.checkpoints", "dense_resnet.extraction.settings", "segmentation.data.layouts",
        "segmentation.evaluation.evaluate", "segmentation.heads.plan", "segmentation.prediction.label_images",
        "segmentation.prediction.options", "segmentation.saving.conversion", "segmentation.saving.export.files",
        "segmentation.saving.model_directory", "segmentation.training.recipe",
    ]  # fmt: skip
    assert not modules_after(f"import {', '.join(light)}") & {"tensorflow", "tf_slim", "tf_keras", "keras"}


def test_describe_imports_no_tensorflow():
    loaded = modules_after("from tools import cli; cli.main(['describe', 'resnet_v2_50'])")
    assert not loaded & {"tensorflow", "numpy", "rich"}
    assert "tensorflow" not in modules_after("from tools import cli; assert cli.main(['describe', 'tools/scenes_model']) == 0")


def test_the_public_face():
    import dense_resnet as dr

    for name in dr.__all__:
        assert getattr(dr, name) is not None
    assert callable(dr.plan)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dr.nothing
