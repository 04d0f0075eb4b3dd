"""A process of test_training.py: runs the jobs of a JSON list in turn.

A job is a list of words, a command line of ``dense-resnet``, or an object that trains the tiny model: `devices` ("one", "two"
or "workers"), `data`, `out`, `recipe`, `stop` (after how many steps this process asks to stop) and `weights` (where they go).
"""

import functools
import itertools
import json
import os
import sys


def main():
    jobs = json.loads(sys.argv[1])
    devices = {job["devices"] for job in jobs if isinstance(job, dict)}
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    if "two" in devices:
        processor = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategies = {
        "one": tf.distribute.get_strategy,
        "two": lambda: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
        "workers": functools.cache(tf.distribute.MultiWorkerMirroredStrategy),  # there can be but one in a process
    }
    for job in jobs:
        if isinstance(job, list):
            run_command(job)
        else:
            train(job, strategies[job["devices"]]())
    sys.stdout.flush()
    os._exit(0)  # a worker would wait for the other one


def run_command(words):
    from tools import cli

    print("exit code", cli.main(words))


def train(job, strategy):
    from dense_resnet import checkpoints
    from helpers.trainings import make

    training = make(job["data"], job["out"], strategy=strategy, head="aspp", **job["recipe"])
    asked = itertools.count(1)
    outcome = training.run(stop=lambda: next(asked) == job.get("stop"), say=print)
    print("outcome", outcome.step, outcome.stopped, "chief" if training.chief else "worker")
    checkpoints.write(job["weights"], training.model.weights)


if __name__ == "__main__":
    main()
