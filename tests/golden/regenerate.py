"""Writes variables.json again: ``python tests/golden/regenerate.py``.

names_deeplab.json, the variables that the original DeepLab code makes, gives the beta variants of depth 50 and 101. v1 and v2
of depth 50 to 200 come from ``tf_slim.nets``. The basic variants (18, 34) exist in neither; theirs are this project's own
plan, held fixed. v1.5 and original variants have the v1 list under their scope.
"""

import json
from pathlib import Path

from dense_resnet.compat import slim
from dense_resnet.planning.variants import plan

BASIC = ("resnet_v1_18", "resnet_v1_34", "resnet_v1_18_beta")


def tf_slim_variables(name):
    """[name, shape, trainable] of each variable that tf_slim.nets creates."""
    import tensorflow as tf
    from tf_slim.nets import resnet_v1, resnet_v2

    network = getattr(resnet_v2, name, None) or getattr(resnet_v1, name)
    with tf.Graph().as_default():
        images = tf.compat.v1.placeholder(tf.float32, [1, 33, 33, 3])
        with slim.arg_scope(resnet_v2.resnet_arg_scope()):
            network(images, global_pool=False)
        trainable = {variable.name for variable in tf.compat.v1.trainable_variables()}
        return [
            [variable.name.removesuffix(":0"), variable.shape.as_list(), variable.name in trainable]
            for variable in tf.compat.v1.global_variables()
        ]


def main():
    """Collects all lists and writes them."""
    lists = {f"resnet_{v}_{depth}": None for v in ("v1", "v2") for depth in (50, 101, 152, 200)}
    lists = {name: tf_slim_variables(name) for name in lists}
    for name in BASIC:
        lists[name] = [list(variable) for variable in plan(name).variables]
    deeplab = json.loads(Path(__file__).with_name("names_deeplab.json").read_text())
    for depth in (50, 101):
        lists[f"resnet_v1_{depth}_beta"] = deeplab[f"resnet_v1_{depth}_beta/backbone"]["variables"]
    write("variables.json", lists)


def write(name, lists):
    """One list a line."""
    rows = [f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in lists.items()]
    Path(__file__).with_name(name).write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main()
