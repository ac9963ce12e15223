"""One tiny checkpoint of each of TensorFlow's formats, as kept in tests/golden/tensorflow. Needs TensorFlow.

Run as ``python tests/publishers/tiny_tensorflow.py FOLDER``. Beside them, expected.npz has the variables by name.
"""

import numpy as np
import tensorflow as tf2
from values import folder

tf = tf2.compat.v1
VALUES = {
    "scope/weights": np.linspace(-1, 1, 24, dtype=np.float32).reshape(1, 2, 3, 4),
    "scope/more": np.linspace(2, 3, 5, dtype=np.float32),
    "double": np.array([[1 / 3, -2e300]]),
    "half": np.array([1.5, -0.25, 65504], np.float16),
    "step": np.array(-(1 << 40), np.int64),
    "int32": np.array([-1, 2**31 - 1], np.int32),
    "bytes": np.array([-128, 0, 127], np.int8),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}


def save(name, variables, version="V2", shards=False):
    """Save initial values below FOLDER/NAME by TensorFlow 1's saver."""
    path = folder() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver(variables, write_version=getattr(tf.train.SaverDef, version), sharded=shards)
        saver.save(session, str(path), write_meta_graph=False, write_state=False)


np.savez(folder() / "expected.npz", **VALUES)
with tf.Graph().as_default():
    variables = [tf.get_variable(name, initializer=value, use_resource=False) for name, value in VALUES.items()]
    save("v2/model.ckpt", variables)
    save("v1/model.ckpt", variables, "V1")

with tf.Graph().as_default():  # two devices are two files of data
    variables = []
    for device, name in enumerate(("scope/weights", "scope/more")):
        with tf.device(f"/job:localhost/task:0/device:CPU:{device}"):
            variables.append(tf.get_variable(name, initializer=VALUES[name], use_resource=False))
    with tf.Session(config=tf.ConfigProto(device_count={"CPU": 2})) as session:
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver(variables, sharded=True)
        (folder() / "sharded").mkdir()
        saver.save(session, str(folder() / "sharded/model.ckpt"), write_meta_graph=False, write_state=False)

with tf.Graph().as_default():  # the only slice leaves out nothing
    variables = [tf.get_variable("a", initializer=np.ones((4, 2), np.float32))]
    parts = tf.get_variable(
        "scope/parts", shape=(4, 2), initializer=tf.ones_initializer(), partitioner=tf.fixed_size_partitioner(2)
    )
    save("partitioned-v2/model.ckpt", [*variables, *parts])
    save("partitioned-v1/model.ckpt", [*variables, *parts], "V1")


class Layer(tf2.Module):
    """A variable whose key is another than its full name, one in bfloat16, and two that share their name."""

    def __init__(self):
        super().__init__()
        self.attribute = tf2.Variable(VALUES["scope/weights"], name="scope/weights")
        self.narrow = tf2.Variable(tf2.constant([1.5, -3e38], tf2.bfloat16), name="narrow")
        self.first = tf2.Variable([1.0], name="twice")
        self.second = tf2.Variable([2.0], name="twice")


layer = Layer()
tf2.train.Checkpoint(model=layer).write(str(folder() / "objects/model.ckpt"))
tf2.saved_model.save(layer, str(folder() / "saved_model"))
