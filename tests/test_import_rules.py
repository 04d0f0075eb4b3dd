"""The house: a file imports only from floors below its own, and planning costs no TensorFlow."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = [  # from the ground up; a file may import from floors before its own
    ["errors"],
    ["geometry", "files", "machine", "processes", "png", "jpeg", "strict_json", "kinds"],
    ["analysis", "precision"],
    ["plan"],
    ["variants"],
    ["preprocessing", "images", "compat", "journal", "pace", "canvas"],
    ["resnet_utils", "fused"],
    ["resnet_v1", "resnet_v2", "slim_module", "runner"],
    ["checkpoints.averages", "checkpoints.hdf5_file", "checkpoints.table"],
    ["checkpoints.safetensors", "checkpoints.slim", "checkpoints.hdf5", "checkpoints.pickled", "checkpoints.origin"],
    ["checkpoints.report", "checkpoints.keras", "checkpoints.torchvision"],
    ["checkpoints"],
    ["features"],
    ["backbone", "keras_resnet", "picture", "settings"],
    ["laws", "extraction"],
    ["parity"],
    ["competitors"],
    ["limits", "chart"],
    ["benchmark"],
]
SEGMENTATION = [
    ["confusion", "metrics", "calibration", "heads", "labels", "losses", "transforms", "records", "foreign_run"],
    ["boundaries", "intervals", "numbering", "presets", "scenes", "samples", "fused"],
    ["model", "inference", "recipe"],
    ["inspection", "model_directory", "prediction", "report", "results"],
    ["export_files"],
    ["export", "training"],
    ["evaluation", "labelling", "conversion"],
    ["benchmark"],
]
GROUND = {"errors", "geometry", "files", "machine", "processes", "analysis", "precision", "plan", "variants"}
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
PRIVATE_TO_COMPAT = ("tensorflow.python", "tf_keras")


def name_of(file):
    """A file's name within the package, dotted."""
    parts = file.relative_to(ROOT / "dense_resnet").with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {name_of(file): file for file in sorted((ROOT / "dense_resnet").rglob("*.py"))}


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


def test_every_file_has_a_floor():
    assert set(FILES) - {""} == set(FLOOR)


@pytest.mark.parametrize("name", [name for name in FILES if name])
def test_imports_go_down(name):
    for imported in imports_of(FILES[name].read_text()):
        inner = imported.removeprefix("dense_resnet.")
        if inner not in (imported, name) and inner in FLOOR:
            assert FLOOR[inner] < FLOOR[name], f"{name} imports {inner}, which is not below it"
        assert not imported.startswith(("segmentation", "tools")), f"{name} imports {imported}"
        if name != "compat":
            assert not imported.startswith(PRIVATE_TO_COMPAT), f"{name} imports {imported}: compat.py is the place for that"


@pytest.mark.parametrize("name", sorted(GROUND))
def test_the_ground_floor_is_plain_python(name):
    allowed = sys.stdlib_module_names | {"dense_resnet"}
    assert all(imported.split(".")[0] in allowed for imported in imports_of(FILES[name].read_text()))


def test_segmentation_imports_go_down():
    """A package, such as the report, is one floor; its files may import each other."""
    floor = {f"segmentation.{name}": number for number, names in enumerate(SEGMENTATION) for name in names}
    top = ROOT / "segmentation"
    files = [file for file in top.rglob("*.py") if file != top / "__init__.py"]
    own = {file: f"segmentation.{file.relative_to(top).parts[0].removesuffix('.py')}" for file in files}
    assert set(own.values()) == set(floor)
    for file, name in own.items():
        for imported in imports_of(file.read_text()):
            above = ".".join(imported.split(".")[:2])
            assert above == name or floor.get(above, -1) < floor[name], f"{name} imports {imported}, which is not below it"
            assert not imported.startswith(("tools", *PRIVATE_TO_COMPAT)), f"{name} imports {imported}"


def test_the_rule_sees_a_breach():
    assert "tensorflow" in list(imports_of("def f():\n    import tensorflow"))
    assert list(imports_of("if TYPE_CHECKING:\n    import tensorflow")) == []


def loaded_by(code):
    """The top-level modules in a fresh interpreter after `code`."""
    code += "\nimport json, sys; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_planning_imports_no_tensorflow():
    loaded = loaded_by("import dense_resnet as dr; dr.plan('resnet_v2_152', output_stride=16).describe((513, 513))")
    assert "dense_resnet" in loaded
    assert not loaded & {"tensorflow", "tf_slim", "tf_keras", "keras", "numpy", "cv2", "PIL", "safetensors"}


def test_what_checks_requests_imports_no_tensorflow():
    light = [
        "dense_resnet.checkpoints", "dense_resnet.settings", "segmentation.conversion", "segmentation.evaluation",
        "segmentation.export_files", "segmentation.heads", "segmentation.inference", "segmentation.labelling",
        "segmentation.model_directory", "segmentation.recipe", "segmentation.samples",
    ]  # fmt: skip
    assert not loaded_by(f"import {', '.join(light)}") & {"tensorflow", "tf_slim", "tf_keras", "keras"}


def test_describe_imports_no_tensorflow():
    loaded = loaded_by("from tools import cli; cli.main(['describe', 'resnet_v2_50'])")
    assert not loaded & {"tensorflow", "numpy", "rich"}
    assert "tensorflow" not in loaded_by("from tools import cli; assert cli.main(['describe', 'tools/scenes_model']) == 0")


def test_the_public_face():
    import dense_resnet as dr

    for name in dr.__all__:
        assert getattr(dr, name) is not None
    assert callable(dr.plan)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dr.nothing
