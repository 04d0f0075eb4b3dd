"""tf.distribute: mirrored variables, and two workers on loopback with equal weights and moving averages."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import TESTS
from helpers.folders import free_ports
from helpers.networks import TWO_BLOCKS_PLAN, images_of, weights_of

import dense_resnet as dr
from dense_resnet.verification import laws


@pytest.mark.slow
def test_two_replicas_average_their_moving_statistics(tmp_path):
    """Mirrored variables; each replica moves its averages by its own images, and they are read as the mean."""
    command = [sys.executable, TESTS / "helpers" / "replicas.py", tmp_path / "replicas.npz"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    values = np.load(tmp_path / "replicas.npz")
    weights, images = weights_of(TWO_BLOCKS_PLAN), images_of(33, batch=4)
    assert laws.relative_error(values["features"], laws.backbone_with(TWO_BLOCKS_PLAN, weights)(images)) <= 1e-5
    singles = []
    for half in (images[:2], images[2:]):
        single = laws.backbone_with(TWO_BLOCKS_PLAN, weights)
        single(half, training=True)
        singles.append(single.weights)
    for name, _, trainable in TWO_BLOCKS_PLAN.variables:
        expected = (singles[0][name] + singles[1][name]) / 2
        np.testing.assert_allclose(values[name.replace("/", "|")], expected, rtol=1e-4, atol=1e-6, err_msg=name)
        assert trainable or not np.array_equal(expected, weights[name])


@pytest.mark.slow
def test_two_workers_run_the_backbone(tmp_path):
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        environment = os.environ | {"TF_CONFIG": json.dumps(task), "PYTHONPATH": str(TESTS.parent)}
        command = [sys.executable, TESTS / "helpers" / "worker.py", str(index), tmp_path / f"{index}.npz"]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()
    one, two = (np.load(tmp_path / f"{index}.npz") for index in range(2))
    fresh = dr.Backbone(TWO_BLOCKS_PLAN, seed=0).weights
    for name, _, _ in TWO_BLOCKS_PLAN.variables:
        key = name.replace("/", "|")
        np.testing.assert_array_equal(one[key], two[key], err_msg=name)
        assert not np.array_equal(one[key], fresh[name]), f"{name} has not moved"
