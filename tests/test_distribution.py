"""tf.distribute: mirrored variables, and two workers on loopback with equal weights and moving averages."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import images_of, weights_of

import dense_resnet as dr
from dense_resnet import laws

HERE = Path(__file__).parent
PLAN = dr.plan([("block1", [(8, 4, 2)]), ("block2", [(8, 4, 1)])], scope="tiny")


def test_two_replicas(tmp_path):
    """Mirrored variables; each replica moves its averages by its own images, and they are read as the mean."""
    command = [sys.executable, HERE / "replicas.py", tmp_path / "replicas.npz"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    values = np.load(tmp_path / "replicas.npz")
    weights, images = weights_of(PLAN), images_of(33, batch=4)
    assert laws.relative_error(values["features"], laws.loaded(PLAN, weights)(images)) <= 1e-5
    singles = []
    for half in (images[:2], images[2:]):
        single = laws.loaded(PLAN, weights)
        single(half, training=True)
        singles.append(single.weights)
    for name, _, trainable in PLAN.variables:
        expected = (singles[0][name] + singles[1][name]) / 2
        np.testing.assert_allclose(values[name.replace("/", "|")], expected, rtol=1e-4, atol=1e-6, err_msg=name)
        assert trainable or not np.array_equal(expected, weights[name])


def free_ports(count):
    """Ports of loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_two_workers(tmp_path):
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        environment = os.environ | {"TF_CONFIG": json.dumps(task), "PYTHONPATH": str(HERE.parent)}
        command = [sys.executable, HERE / "worker.py", str(index), tmp_path / f"{index}.npz"]
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
    fresh = dr.Backbone(PLAN, seed=0).weights
    for name, _, _ in PLAN.variables:
        key = name.replace("/", "|")
        np.testing.assert_array_equal(one[key], two[key], err_msg=name)
        assert not np.array_equal(one[key], fresh[name]), f"{name} has not moved"
