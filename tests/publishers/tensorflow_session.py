"""TensorFlow 1's graphs in TensorFlow 2, and the end that both scripts have. Imported before tensorflow.

tf.layers and tf-slim are made of Keras 2, which newer TensorFlows look for in tf-keras (same version) under a name that
its wheels from 2.16 on lack.
"""

import contextlib
import importlib
import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with contextlib.suppress(ModuleNotFoundError):  # TensorFlow up to 2.15 has Keras 2 itself
    for module in ("", ".base", ".convolutional", ".core", ".normalization", ".pooling"):
        name = "tf_keras.legacy_tf_layers" + module
        sys.modules[name] = importlib.import_module(name.replace("tf_keras", "tf_keras.src"))

import tensorflow.compat.v1 as tf
from values import folder, value_of, write_answers

tf.disable_eager_execution()


def finish(name, x, logits, maps):
    """Fill the graph's variables, save them in each of TensorFlow's formats, and write the answers.

    FOLDER gets NAME.index with NAME.data-00000-of-00001, v1/NAME, and saved_model/. Values follow from a variable's
    name without the network's scope, as the rules have it.

    Args:
        name: the checkpoint's, "model.ckpt".
        x: the placeholder of pictures (N, H, W, 3).
        logits: (N, classes).
        maps: at strides 4, 8, 16 and 32, each (N, h, w, C).
    """
    weights = [v for v in tf.global_variables() if v.dtype.base_dtype == tf.float32]
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for variable in weights:
            short = variable.op.name.partition("/")[2]
            variable.load(value_of(short, tuple(variable.shape.as_list()), -1), session)
        (folder() / "v1").mkdir()
        for version, path in (("V2", folder() / name), ("V1", folder() / "v1" / name)):
            saver = tf.train.Saver(write_version=getattr(tf.train.SaverDef, version))
            saver.save(session, str(path), write_meta_graph=False, write_state=False)
        tf.saved_model.simple_save(session, str(folder() / "saved_model"), {"x": x}, {"logits": logits})

        def answer(tensors, pictures):
            return session.run(tensors, {x: pictures.transpose(0, 2, 3, 1)})

        write_answers(
            lambda pictures: answer(logits, pictures),
            lambda pictures: [found.transpose(0, 3, 1, 2) for found in answer(maps, pictures)],
        )
