"""Two replicas of test_distribution.py: a forward and a training step under MirroredStrategy on two logical processors."""

import sys

import numpy as np
import tensorflow as tf


def main():
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    import dense_resnet as dr
    from helpers.networks import TWO_BLOCKS_PLAN, images_of, weights_of

    with strategy.scope():
        backbone = dr.Backbone(TWO_BLOCKS_PLAN)
    assert all(type(variable).__name__ == "MirroredVariable" for variable in backbone.trainable_variables)
    backbone.assign(weights_of(TWO_BLOCKS_PLAN))
    images = images_of(33, batch=4)

    def own_half(context):
        start = 2 * context.replica_id_in_sync_group
        return tf.constant(images[start : start + 2])

    halves = strategy.experimental_distribute_values_from_function(own_half)
    run = tf.function(lambda images, training: strategy.run(lambda x: backbone(x, training=training), [images]))
    features = np.concatenate([part.numpy() for part in strategy.experimental_local_results(run(halves, False))])
    run(halves, True)
    np.savez(sys.argv[1], features=features, **{name.replace("/", "|"): value for name, value in backbone.weights.items()})


if __name__ == "__main__":
    main()
