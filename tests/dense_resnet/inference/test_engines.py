"""Which engine computes a network: as asked, as it was measured, or the usual one."""

import json

import pytest

from dense_resnet.errors import InputError
from dense_resnet.inference import engines


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("DENSE_RESNET_CACHE", str(tmp_path))


def test_engines_that_are_not_there(monkeypatch):
    with pytest.raises(InputError, match=r"engine must be one of 'auto', 'tensorflow', 'openvino' \(not 'tpu'\)"):
        engines.check_engine("tpu")
    monkeypatch.setattr(engines, "has_openvino", lambda: False)
    assert engines.usual_engine() == "tensorflow"
    with pytest.raises(InputError, match="pip install openvino"):
        engines.usual_engine("openvino")


def test_what_was_measured_is_remembered(tmp_path):
    key = {"network": "resnet_v2_50", **engines.describe_machine("float32")}
    assert engines.recall(key) == {}
    calls = []
    found = engines.measure({name: lambda name=name: calls.append(name) for name in ("openvino", "tensorflow")}, key)
    assert calls == ["openvino", "tensorflow"] * (1 + engines.RUNS)  # in turn
    assert engines.recall(key) == found
    assert set(found) == {"openvino", "tensorflow"}
    assert engines.recall(key | {"cores": 99}) == {}
    engines.measure({"tensorflow": int}, key | {"cores": 99})
    assert engines.recall(key) == found
    assert len(json.loads((tmp_path / engines.MEASURED).read_text())) == 2


@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b'{"a": 1}'])
def test_a_damaged_record_is_measured_anew(damage, tmp_path):
    (tmp_path / engines.MEASURED).write_bytes(damage)
    assert engines.recall({"a": 1}) == {}
    assert engines.recall({"a": 1}) == {}
    found = engines.measure({"tensorflow": int}, {"a": 1})
    assert engines.recall({"a": 1}) == found
