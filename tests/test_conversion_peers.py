"""Parity with the publishers' own code: their random networks, saved by them, answer the same here.

Every network gets random weights, statistics and biases and small uneven scales. Two sizes: at 225 pixels TensorFlow's
asymmetric padding equals the symmetric one, at 224 it does not.
"""

import os
import tarfile

import numpy as np
import pytest
import torch
from peers import import_timm, randomise, run_publisher
from test_conversion_golden import assert_same_answers

from resnetv2.conversion import read_checkpoint, write_checkpoint
from resnetv2.errors import ConvertError
from resnetv2.model import ResNetV2

pytestmark = pytest.mark.peers

SIZES = (224, 225)
FLOAT32 = 1e-5  # of the largest logit: 50 to 150 layers of float32 sums in another order make 1e-6 of it
FLOAT64 = 1e-10  # a million times the rounding of float64; the slightest other graph is far above it


def ours(checkpoint):
    """Return our network with a checkpoint's weights, in evaluation."""
    model = ResNetV2(checkpoint.config)
    result = model.load_state_dict({n: torch.from_numpy(v) for n, v in checkpoint.weights.items()}, strict=False)
    assert not result.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in result.missing_keys)
    return model.eval()


def pictures(size, dtype=torch.float32):
    generator = torch.Generator().manual_seed(size)
    return torch.randn(2, 3, size, size, generator=generator, dtype=torch.float32).to(dtype)


def difference(got, expected):
    """Return the largest difference in units of the largest answer."""
    assert got.shape == expected.shape
    assert expected.std() > 0
    return float((got - expected).abs().max() / expected.abs().max())


def assert_equal_answers(checkpoint, theirs, sizes=SIZES, dtype=torch.float32, tolerance=FLOAT32):
    """Compare logits; ``theirs`` answers (N, 3, H, W) with (N, classes)."""
    model = ours(checkpoint).to(dtype)
    for size in sizes:
        x = pictures(size, dtype)
        with torch.no_grad():
            measured = difference(model(x), theirs(x))
        print(f"{checkpoint.provenance['source']} {checkpoint.config.depths} at {size}: {measured:.1e}")
        assert measured <= tolerance


# --- timm -------------------------------------------------------------------------------------------------------------

TIMM = (
    "resnetv2_18",
    "resnetv2_34d",
    "resnetv2_50",
    "resnetv2_50d",
    "resnetv2_50d_gn",
    "resnetv2_50d_evos",
    "resnetv2_50x1_bit",
)


def timm_model(name):
    model = randomise(import_timm().create_model(name, num_classes=11)).eval()
    return model.double()


@pytest.mark.parametrize("name", TIMM)
def test_timms_networks_answer_the_same_in_float64(name, tmp_path):
    from safetensors.torch import save_file

    theirs = timm_model(name)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.provenance["source"] == "timm"
    assert_equal_answers(checkpoint, theirs, dtype=torch.float64, tolerance=FLOAT64)


@pytest.mark.parametrize("name", ["resnetv2_50", "resnetv2_50x1_bit"])
def test_timms_feature_maps_are_the_same_in_float64(name, tmp_path):
    theirs = timm_model(name)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    model = ours(read_checkpoint(tmp_path / "pytorch_model.bin")).double()
    x = pictures(224, torch.float64)
    with torch.no_grad():
        assert difference(model.forward_features(x), theirs.forward_features(x)) <= FLOAT64
        maps = theirs.forward_intermediates(x, indices=[1, 2, 3], intermediates_only=True)
        for got, expected in zip(model.forward_maps(x)[:3], maps, strict=True):
            assert difference(got, expected) <= FLOAT64


@pytest.mark.parametrize("name", ["resnetv2_18", "resnetv2_50d_evos", "resnetv2_50x1_bit"])
def test_timm_loads_what_is_written_for_it(name, tmp_path):
    theirs = timm_model(name)
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    write_checkpoint(tmp_path / "model.safetensors", checkpoint.config, checkpoint.weights, "timm")
    create = import_timm().create_model
    again = create(name, num_classes=11, checkpoint_path=str(tmp_path / "model.safetensors")).eval().double()
    expected = theirs.state_dict()
    for tensor, value in again.state_dict().items():
        if not tensor.endswith("num_batches_tracked"):  # never counted here
            assert torch.equal(value.float(), expected[tensor].float()), tensor


def test_timm_loads_the_npz_that_is_written_in_bits_format(tmp_path):
    theirs = timm_model("resnetv2_50x1_bit").float()
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    write_checkpoint(tmp_path / "x.npz", checkpoint.config, checkpoint.weights, "bit")
    again = import_timm().create_model("resnetv2_50x1_bit", num_classes=11)
    again.load_pretrained(str(tmp_path / "x.npz"))
    for tensor, value in again.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[tensor]), tensor
    read_again = read_checkpoint(tmp_path / "x.npz")
    assert read_again.config.weight_std_eps == 1e-10  # Google's, where timm's copy has 1e-8
    assert_equal_answers(read_again, theirs)


# --- pytorchcv --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "size"),
    [
        ("preresnet18", "auto", 224),
        ("preresnet50", "pytorchcv:pytorchcv", 224),
        ("preresnet50b", "pytorchcv:pytorchcv-b", 224),
        ("preresnet20_cifar10", "auto", 32),
        ("preresnet164bn_cifar10", "auto", 32),
    ],
)
def test_pytorchcvs_networks_answer_the_same(name, source, size, tmp_path):
    provider = pytest.importorskip("pytorchcv.model_provider", reason="pytorchcv is not installed")
    theirs = randomise(provider.get_model(name)).eval()
    torch.save(theirs.state_dict(), tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth", source)
    assert_equal_answers(checkpoint, theirs, sizes=[size])  # their last pool has a fixed size


def test_pytorchcvs_narrow_networks_with_a_wide_last_unit_are_refused(tmp_path):
    provider = pytest.importorskip("pytorchcv.model_provider", reason="pytorchcv is not installed")
    torch.save(provider.get_model("preresnet18_w3d4").state_dict(), tmp_path / "x.pth")
    with pytest.raises(ConvertError, match=r"features\.post_activ\.bn\.weight is 512 instead of 384"):
        read_checkpoint(tmp_path / "x.pth")


# --- Hugging Face -----------------------------------------------------------------------------------------------------


def huggingface():
    import_timm()  # transformers imports torchvision, too
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BitConfig(num_labels=11)
    return transformers, randomise(transformers.BitForImageClassification(config)).eval()


def test_hugging_faces_bit_answers_the_same(tmp_path):
    _, theirs = huggingface()
    theirs.save_pretrained(tmp_path)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.provenance["source"] == "huggingface"
    assert_equal_answers(checkpoint, lambda x: theirs(x).logits)


def test_hugging_face_loads_what_is_written_for_it(tmp_path):
    transformers, theirs = huggingface()
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    checkpoint = read_checkpoint(path)
    write_checkpoint(path, checkpoint.config, checkpoint.weights, "huggingface")
    again = transformers.BitForImageClassification.from_pretrained(tmp_path)
    for name, value in again.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name


# --- Keras ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def keras():
    os.environ.setdefault("KERAS_BACKEND", "torch")
    return pytest.importorskip("keras", reason="keras is not installed")


@pytest.fixture
def keras64(keras, monkeypatch):
    """Keras that computes in float64, in its batch norms, too, which by themselves go through float32."""
    use_dtype(keras, "float64")
    monkeypatch.setattr("keras.src.backend.result_type", lambda *_: "float64")
    yield keras
    use_dtype(keras, "float32")


def use_dtype(keras, dtype):
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)  # it does not follow floatx once a layer has asked for it


def keras_model(keras, name="ResNet50V2", classes=11):
    """Return a network of Keras Applications with random numbers; its own head would fix the pictures' size."""
    build = getattr(keras.applications, name)
    model = build(weights=None, include_top=False, pooling="avg", input_shape=(None, None, 3))
    if classes:
        model = keras.Model(model.input, keras.layers.Dense(classes, name="predictions")(model.output))
    return fill(model)


def fill(model):
    generator = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(random_values(variable.path, tuple(variable.shape), generator))
    return model


def random_values(path, shape, generator):
    """Return what ``randomise`` gives, for Keras's names and layouts; float32, which float64 holds."""
    if len(shape) > 1:
        values = generator.normal(size=shape) * (2 / np.prod(shape[:-1])) ** 0.5
    elif path.endswith("moving_variance"):
        values = generator.uniform(0.5, 1.5, shape)
    elif path.endswith("gamma"):
        values = generator.uniform(0.4, 0.8, shape)
    else:
        values = generator.uniform(-0.2, 0.2, shape)
    return values.astype(np.float32)


def answer_of(model):
    def answer(x):
        with torch.no_grad():
            return model(x.permute(0, 2, 3, 1).contiguous(), training=False)

    return answer


def maps_of(keras, model, depths):
    """Return what gives the maps that the strided units read, each stage's last but for the last stage, and the end."""
    strided = [f"conv{stage + 2}_block{depth}_preact_bn" for stage, depth in enumerate(depths[:-1])]
    taps = [*[model.get_layer(name).input for name in strided], model.get_layer("post_relu").output]
    answer = answer_of(keras.Model(model.input, taps))
    return lambda x: [out.permute(0, 3, 1, 2) for out in answer(x)]


@pytest.mark.parametrize("name", ["ResNet50V2", "ResNet101V2"])
@pytest.mark.parametrize("ending", ["h5", "weights.h5", "keras"])
def test_keras_applications_answer_the_same_from_each_of_keras_files(name, ending, keras, tmp_path):
    theirs = keras_model(keras, name)
    path = tmp_path / f"x.{ending}"
    (theirs.save_weights if ending == "weights.h5" else theirs.save)(path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.provenance["source"] == ("keras" if ending == "h5" else "keras3")
    assert_equal_answers(checkpoint, answer_of(theirs), sizes=[224])


@pytest.mark.parametrize(
    ("name", "sizes"), [("ResNet50V2", (224, 225, 299)), ("ResNet101V2", (225,)), ("ResNet152V2", (224,))]
)
def test_keras_applications_give_the_same_logits_and_feature_maps(name, sizes, keras, tmp_path):
    theirs = keras_model(keras, name)  # in float32: Keras's batch norms round to it in a float64 network, too
    theirs.save(tmp_path / "x.keras")
    checkpoint = read_checkpoint(tmp_path / "x.keras")
    assert_equal_answers(checkpoint, answer_of(theirs), sizes)
    maps = maps_of(keras, theirs, checkpoint.config.depths)
    model = ours(checkpoint)
    for size in sizes:
        x = pictures(size)
        with torch.no_grad():
            measured = [difference(*pair) for pair in zip(model.forward_maps(x), maps(x), strict=True)]
        print(f"{name}, maps at {size}: {', '.join(f'{value:.1e}' for value in measured)}")
        assert len(measured) == 4
        assert max(measured) <= FLOAT32


@pytest.mark.parametrize("size", SIZES)
def test_keras_applications_give_the_same_feature_maps_in_float64(size, keras64, tmp_path):
    theirs = keras_model(keras64)
    theirs.save(tmp_path / "x.keras")
    checkpoint = read_checkpoint(tmp_path / "x.keras")
    model, maps = ours(checkpoint).double(), maps_of(keras64, theirs, checkpoint.config.depths)
    x = pictures(size, torch.float64)
    with torch.no_grad():
        measured = [difference(*pair) for pair in zip(model.forward_maps(x), maps(x), strict=True)]
    print(f"float64 maps at {size}: {', '.join(f'{value:.1e}' for value in measured)}")
    assert max(measured) <= FLOAT64


@pytest.mark.parametrize("size", SIZES)
def test_a_headless_keras_network_gives_the_same_features(size, keras, tmp_path):
    theirs = keras_model(keras, classes=0)
    theirs.save(tmp_path / "x.h5")
    checkpoint = read_checkpoint(tmp_path / "x.h5")
    assert checkpoint.config.num_classes == 0
    assert_equal_answers(checkpoint, answer_of(theirs), sizes=[size])


@pytest.mark.parametrize(("name", "classes"), [("ResNet50V2", 11), ("ResNet50V2", 0), ("ResNet152V2", 11)])
def test_keras_loads_the_legacy_file_that_is_written_for_it(name, classes, keras, tmp_path):
    theirs = keras_model(keras, name, classes)
    theirs.save(tmp_path / "x.keras")
    checkpoint = read_checkpoint(tmp_path / "x.keras", "keras3")
    write_checkpoint(tmp_path / "y.h5", checkpoint.config, checkpoint.weights, "keras")
    again = keras_model(keras, name, classes)
    for variable in again.weights:
        variable.assign(np.zeros(variable.shape))
    again.load_weights(tmp_path / "y.h5")
    assert_same_weights(again, theirs)


@pytest.mark.parametrize(
    ("name", "classes"), [("ResNet50V2", 11), ("ResNet50V2", 0), ("ResNet101V2", 11), ("ResNet152V2", 11)]
)
def test_keras_opens_the_archive_that_is_written_for_it_and_answers_the_same(name, classes, keras, tmp_path):
    theirs = keras_model(keras, name, classes)
    theirs.save(tmp_path / "x.h5")
    checkpoint = read_checkpoint(tmp_path / "x.h5")
    write_checkpoint(tmp_path / "y.keras", checkpoint.config, checkpoint.weights, "keras3")
    again = keras.saving.load_model(tmp_path / "y.keras")
    assert_same_weights(again, theirs)
    assert_equal_answers(checkpoint, answer_of(again), sizes=SIZES if name == "ResNet50V2" else (224,))
    kept = read_checkpoint(tmp_path / "y.keras", "keras3")
    assert {n: v.tobytes() for n, v in kept.weights.items()} == {n: v.tobytes() for n, v in checkpoint.weights.items()}


def assert_same_weights(got, expected):
    """Compare two Keras models layer by layer, in their order and by name."""
    assert [variable.path for variable in got.weights] == [variable.path for variable in expected.weights]
    for left, right in zip(got.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(as_array(left), as_array(right), err_msg=left.path)


def as_array(variable):
    return variable.value.detach().cpu().numpy()


@pytest.fixture
def hub(keras):
    return pytest.importorskip("keras_hub", reason="keras-hub is not installed")


def hub_backbone(hub):
    return fill(
        hub.models.ResNetBackbone(
            input_conv_filters=[64],
            input_conv_kernel_sizes=[7],
            stackwise_num_filters=[64, 128, 256, 512],
            stackwise_num_blocks=[3, 4, 6, 3],
            stackwise_num_strides=[1, 2, 2, 2],
            block_type="bottleneck_block",
            use_pre_activation=True,
            image_shape=(None, None, 3),
        )
    )


@pytest.mark.parametrize("size", SIZES)
def test_keras_hubs_backbone_gives_the_same_features(size, hub, tmp_path):
    theirs = hub_backbone(hub)
    theirs.save_weights(tmp_path / "model.weights.h5")
    checkpoint = read_checkpoint(tmp_path / "model.weights.h5")
    assert checkpoint.provenance["source"] == "kerashub3"
    answer = answer_of(theirs)
    assert_equal_answers(checkpoint, lambda x: answer(x).mean(dim=(1, 2)), sizes=[size])


@pytest.mark.parametrize("prepares", [False, True])
def test_a_preset_of_keras_hub_answers_the_same_with_its_head(prepares, hub, tmp_path):
    preprocessor = None
    if prepares:  # its folder then has more files, and its head's file more groups
        converter = hub.layers.ResNetImageConverter(image_size=(224, 224), scale=1 / 127.5, offset=-1)
        preprocessor = hub.models.ResNetImageClassifierPreprocessor(image_converter=converter)
    theirs = fill(hub.models.ResNetImageClassifier(hub_backbone(hub), num_classes=11, preprocessor=preprocessor))
    theirs.save_to_preset(tmp_path / "preset")
    checkpoint = read_checkpoint(tmp_path / "preset")
    assert (checkpoint.config.num_classes, checkpoint.provenance["source"]) == (11, "kerashub3")
    assert_equal_answers(checkpoint, answer_of(theirs), sizes=(224,) if prepares else (*SIZES, 299))


# --- ONNX -------------------------------------------------------------------------------------------------------------


def test_onnxs_own_writer_and_this_reader_agree(tmp_path):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    from resnetv2.conversion.readers import read_tensors

    generator = np.random.default_rng(0)
    tensors = {"a": generator.normal(size=(2, 3, 7, 7)).astype(np.float32), "b": np.array([0, -1], np.int64)}
    made = [onnx.numpy_helper.from_array(value, name) for name, value in tensors.items()]
    made.append(onnx.helper.make_tensor("c", onnx.TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0]))
    graph = onnx.helper.make_graph([], "test", [], [], initializer=made)
    onnx.save(onnx.helper.make_model(graph), tmp_path / "x.onnx")
    _, got = read_tensors(tmp_path / "x.onnx")
    for name, value in {**tensors, "c": np.array([[1, 2], [3, 4]], np.float32)}.items():
        np.testing.assert_array_equal(got[name], value)
        assert got[name].dtype == value.dtype
    onnx.save(
        onnx.helper.make_model(graph),
        tmp_path / "y.onnx",
        save_as_external_data=True,
        location="data",
        size_threshold=0,
    )
    with pytest.raises(ValueError, match="kept in another file"):
        read_tensors(tmp_path / "y.onnx")


# --- TensorFlow -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "prefix"), [("slim", "resnet_v2_50.ckpt"), ("official", "model.ckpt")])
def test_tensorflows_networks_answer_the_same_from_each_of_its_files(name, prefix, tmp_path):
    answers = run_publisher(name, tmp_path, "tensorflow, tf_slim")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz", compresslevel=1) as archive:  # as both are published
        archive.add(tmp_path / "v1" / prefix, prefix)
    first = read_checkpoint(tmp_path / prefix)
    assert (first.provenance["source"], first.provenance["left_out"]) == (name, ["global_step"])
    assert_same_answers(first.config, first.weights, answers)
    for path in (f"v1/{prefix}", "saved_model", "x.tar.gz"):
        again = read_checkpoint(tmp_path / path)
        assert (again.config, again.provenance["source"]) == (first.config, name)
        assert again.weights.keys() == first.weights.keys()
        for tensor, value in again.weights.items():
            np.testing.assert_array_equal(value, first.weights[tensor], err_msg=f"{path}: {tensor}")
