"""One tiny checkpoint of each of TensorFlow's formats, as kept in tests/golden/tensorflow. Needs TensorFlow.

Run as ``python tests/publishers/tiny_tensorflow.py FOLDER``. Beside them, expected.npz has the variables by name.
"""

import numpy as np
import tensorflow as tf
from values import folder

v1 = tf.compat.v1
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
    """Save initial values below FOLDER/NAME by TensorFlow 1's saver, shards=True: a file of data for each device."""
    path = folder() / name / "model.ckpt"
    path.parent.mkdir()
    with v1.Session(config=v1.ConfigProto(device_count={"CPU": 2})) as session:
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(variables, write_version=getattr(v1.train.SaverDef, version), sharded=shards)
        saver.save(session, str(path), write_meta_graph=False, write_state=False)


def variable(name, device=0):
    with tf.device(f"/job:localhost/task:0/device:CPU:{device}"):
        return v1.get_variable(name, initializer=VALUES[name], use_resource=False)


np.savez(folder() / "expected.npz", **VALUES)
with tf.Graph().as_default():
    variables = [variable(name) for name in VALUES]
    save("v2", variables)
    save("v1", variables, "V1")

with tf.Graph().as_default():
    save("sharded", [variable("scope/weights", 0), variable("scope/more", 1)], shards=True)

with tf.Graph().as_default():
    halves = v1.fixed_size_partitioner(2)
    parts = v1.get_variable("scope/parts", (4, 2), initializer=v1.ones_initializer(), partitioner=halves)
    variables = [variable("scope/more"), *parts]
    save("partitioned-v2", variables)
    save("partitioned-v1", variables, "V1")


class Layer(tf.Module):
    """A variable whose key is another than its full name, one in bfloat16, and two that share their name."""

    def __init__(self):
        super().__init__()
        self.attribute = tf.Variable(VALUES["scope/weights"], name="scope/weights")
        self.narrow = tf.Variable(tf.constant([1.5, -3e38], tf.bfloat16), name="narrow")
        self.first = tf.Variable([1.0], name="twice")
        self.second = tf.Variable([2.0], name="twice")


layer = Layer()
tf.train.Checkpoint(model=layer).write(str(folder() / "objects" / "model.ckpt"))
tf.saved_model.save(layer, str(folder() / "saved_model"))
