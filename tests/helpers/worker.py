"""One worker of test_distribution.py: trains a tiny backbone two steps under MultiWorkerMirroredStrategy."""

import sys

import numpy as np
import tensorflow as tf


def main():
    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before anything else of TensorFlow runs
    import dense_resnet as dr

    plan = dr.plan([("block1", [(8, 4, 2)]), ("block2", [(8, 4, 1)])], scope="tiny")
    with strategy.scope():
        backbone = dr.Backbone(plan, seed=0)
    generator = np.random.default_rng(int(sys.argv[1]))  # each worker has images of its own
    images = tf.constant(generator.standard_normal((2, 33, 33, 3)).astype(np.float32))

    def replica(images):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(backbone(images, training=True) ** 2)
        gradients = tape.gradient(loss, backbone.trainable_variables)
        gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
        for variable, gradient in zip(backbone.trainable_variables, gradients, strict=True):
            variable.assign_sub(0.1 * gradient)

    step = tf.function(lambda images: strategy.run(replica, [images]))
    for _ in range(2):
        step(images)
    np.savez(sys.argv[2], **{name.replace("/", "|"): value for name, value in backbone.weights.items()})


if __name__ == "__main__":
    main()
