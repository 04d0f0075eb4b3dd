"""tf.distribute: mirrored variables, and two workers on loopback with equal weights and moving averages."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from conftest import images_of, weights_of

import dense_resnet as dr
from dense_resnet import laws

HERE = Path(__file__).parent
PLAN = dr.plan([("block1", [(8, 4, 2)]), ("block2", [(8, 4, 1)])], scope="tiny")


def test_mirrored_strategy():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        backbone = dr.Backbone(PLAN)
    backbone.assign(weights_of(PLAN))
    assert all(type(variable).__name__ == "MirroredVariable" for variable in backbone.trainable_variables)
    images = tf.constant(images_of(33, batch=2))
    single = laws.loaded(PLAN, weights_of(PLAN))
    run = tf.function(lambda images, training: strategy.run(lambda x: backbone(x, training=training), [images]))
    assert laws.relative_error(run(images, False), single(images)) <= 1e-5
    run(images, True)
    single(images, training=True)
    for name, value in backbone.weights.items():
        np.testing.assert_allclose(value, single.weights[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert not np.array_equal(backbone.weights["tiny/postnorm/moving_mean"], weights_of(PLAN)["tiny/postnorm/moving_mean"])


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
