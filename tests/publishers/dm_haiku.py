"""Haiku's ResNet50 with resnet_v2=True: its answers; depths.npz, the logits of two other depths. Needs dm-haiku 0.0.17.

No weights are published, so no checkpoint is written. (A file named haiku.py would be imported instead of Haiku.)
"""

import haiku
import jax
import numpy as np
from values import CLASSES, folder, pictures, value_of, write_answers


def build(depth):
    """Return a function from pictures (N, 3, H, W) to (logits, maps before each strided unit and at the end)."""

    def network(x):
        maps = []

        def record(function, args, kwargs, context):
            out = function(*args, **kwargs)
            name = context.module.name
            if context.method_name == "__call__" and name in ("block_group_0", "block_group_1", "block_group_2"):
                maps.append(out)
            elif context.method_name == "__call__" and name == "final_batchnorm":
                maps.append(jax.nn.relu(out))
            return out

        with haiku.intercept_methods(record):
            model = getattr(haiku.nets, f"ResNet{depth}")(CLASSES, resnet_v2=True)
            return model(x, is_training=haiku.running_init()), maps

    transformed = haiku.without_apply_rng(haiku.transform_with_state(network))
    picture = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    shapes = jax.eval_shape(transformed.init, jax.random.PRNGKey(0), picture)
    parameters, state = (fill(tree) for tree in shapes)

    def answer(x):
        (logits, maps), _ = transformed.apply(parameters, state, np.transpose(x, (0, 2, 3, 1)))
        return np.asarray(logits), [np.transpose(feature_map, (0, 3, 1, 2)) for feature_map in maps]

    return answer


def fill(tree):
    """Return the numbers of ``value_of`` in Haiku's dicts; its norms keep (1, 1, 1, C)."""
    filled = {}
    for module, tensors in tree.items():
        for name, outline in tensors.items():
            plain = f"{module.partition('/~/')[2]}/{name}"  # without "res_net50"
            norm = outline.shape[:3] == (1, 1, 1) and name != "w"
            value = value_of(plain, outline.shape[3:] if norm else outline.shape, -1)
            filled.setdefault(module, {})[name] = value.reshape(outline.shape).astype(outline.dtype)
    return filled


resnet50 = build(50)
write_answers(lambda x: resnet50(x)[0], lambda x: resnet50(x)[1])
np.savez(folder() / "depths.npz", **{f"resnet{depth}v2": build(depth)(pictures(224))[0] for depth in (18, 101)})
