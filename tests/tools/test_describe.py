"""``describe``: the graph that it writes for TensorBoard."""

import dense_resnet as dr
from tools import describe

BLOCKS = [("block1", [(8, 4, 1), (8, 4, 2)]), ("block2", [(12, 4, 1), (12, 4, 2)]), ("block3", [(16, 4, 1), (16, 4, 1)])]


def test_the_graph_for_tensorboard(tmp_path, caplog):
    with caplog.at_level("ERROR", "tensorflow"):
        describe.write_graph(dr.plan(BLOCKS, scope="tiny"), (33, 33), str(tmp_path))
    events = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"tiny/block3/unit_2/bottleneck_v2/conv2/Conv2D" in events
