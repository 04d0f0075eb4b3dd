"""What the worker sees of a case that goes wrong."""

import os
import tempfile

import numpy as np
import pytest

from campaign import isolated
from dense_resnet.errors import InputError

pytestmark = pytest.mark.skipif(not isolated.HERE, reason="memory is limited as Linux does it")


def read(path):
    """A reader that does what the file says."""
    match path.read_text():
        case "abort":
            os.abort()
        case "hang":
            while True:
                pass
        case "allocate":
            bytearray(2 * isolated.MEMORY)
        case "refuse":
            raise InputError(f"{path}: damaged")
        case "refuse without a name":
            raise InputError("damaged")
        case "where temporary files go":
            return tempfile.gettempdir()
    return np.float32(len(path.read_text()))


def test_what_the_worker_sees(tmp_path):
    with isolated.worker(tmp_path) as worker:
        for text, answer in {
            "good": ("returned", 4),
            "where temporary files go": ("returned", str(tmp_path)),
            "refuse": ("refused", f"{tmp_path / 'refuse'}: damaged"),
            "refuse without a name": ("refused without the file's name", "damaged"),
            "allocate": ("raised", "MemoryError()"),
            "hang": ("hung", "over 1 s"),
        }.items():
            (tmp_path / text).write_text(text)
            assert worker.ask(read, tmp_path / text, seconds=60 if text != "hang" else 1) == answer
            assert worker.is_new == (text == "hang")
        (tmp_path / "abort").write_text("abort")
        outcome, why = worker.ask(read, tmp_path / "abort", seconds=60)
        assert (outcome, why.split(":")[0]) == ("crashed", "exit code -6")
        assert worker.is_new
        assert worker.warm(read, tmp_path / "good") == 4
        assert not worker.is_new
