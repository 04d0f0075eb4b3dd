"""What Python's own reader of JSON takes without a word."""

import json
import time

import pytest

from dense_resnet.jobs import strict_json


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"7": 0, "8": 1, "7": 2}', "duplicate key '7'"),
        ('[{"a": {"b": 1, "b": 1}}]', "duplicate key 'b'"),
        ("[NaN]", "NaN is not valid JSON"),
        ("-Infinity", "-Infinity is not valid JSON"),
        ("1e999", "1e999 is not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("{", "Expecting property name"),
        ("9" * 5000, "Exceeds the limit|integer string conversion"),
        (b"\xff\xfe\xff", "can't decode"),
    ],
)
def test_invalid_json_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        strict_json.loads(text)


def test_a_duplicate_among_many_keys_is_found_fast():
    text = "{" + "".join(f'"{number}": 0, ' for number in range(20_000)) + '"19999": 1}'
    began = time.process_time()
    with pytest.raises(ValueError, match="duplicate key '19999'"):
        strict_json.loads(text)
    assert time.process_time() - began < 2  # by counting each: 9 s


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "é\udcff"], "b": {}}, [], "a", 3])
def test_valid_json_is_read(value):
    assert strict_json.loads(json.dumps(value)) == strict_json.loads(json.dumps(value).encode()) == value
