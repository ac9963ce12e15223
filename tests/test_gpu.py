"""What only a CUDA GPU can show; skipped where there is none."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from runs import TINY, command, write_colours

import resnetv2
from resnetv2.runtime.pytorch import TorchSession, build_model
from resnetv2.weights.modelfile import read_model_file

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")

SETTINGS = {"arch": "resnet18v2", "image_size": 32, "batch_size": 8, "epochs": 2, "device": "cuda"}


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("data"), train=24, val=9, test=9)


@pytest.fixture(scope="module")
def trained(colours, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "plain"
    resnetv2.train(colours, out=out, **SETTINGS, set=TINY)
    return out


def log_of(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_on_the_gpu_is_finite_and_its_model_proves_itself_on_the_cpu(trained):
    assert all(np.isfinite(line["train_loss"]) for line in log_of(trained))
    assert json.loads((trained / "environment.json").read_text())["device"].startswith("cuda")
    assert resnetv2.verify(trained / "best.safetensors", device="cpu").ok


def test_gpu_and_cpu_answer_the_same(trained):
    file = read_model_file(trained / "best.safetensors")
    pictures = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    preprocessing = file.header.preprocessing
    answers = [
        TorchSession(build_model(file.header.architecture, file.weights), preprocessing, torch.device(name))(pictures)
        for name in ("cpu", "cuda")
    ]
    # float32 sums in another order; TensorFloat-32, which is held off, would leave thousandths
    assert np.abs(answers[0] - answers[1]).max() <= 1e-5 * np.abs(answers[0]).max()


@pytest.mark.parametrize(
    "setting",
    [
        {"amp": "bf16"},
        {"amp": "fp16"},
        {"amp": "bf16", "kernels": "fused"},
        {"compile": True},
        {"memory": "recompute"},
        {"optimizer": "adamw"},
        {"ema_decay": 0.9},
        {"mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1},
        {"bn": "recalibrate"},
        {"grad_accum_steps": 2, "clip_grad": 1.0},
    ],
    ids=str,
)
def test_each_way_of_training_works_on_the_gpu(colours, tmp_path, setting):
    out = tmp_path / "run"
    resnetv2.train(colours, out=out, **SETTINGS, set=TINY | setting)
    assert all(np.isfinite(line["train_loss"]) and np.isfinite(line["val_loss"]) for line in log_of(out))
    assert resnetv2.verify(out / "best.safetensors", device="cuda").ok


def test_a_run_stopped_by_a_signal_goes_on_and_ends(colours, tmp_path, trained):
    out = tmp_path / "run"
    words = ["train", colours, "--out", out, "--epochs", 2, "--image-size", 32, "--batch-size", 8]
    words += ["--device", "cuda", "--arch", "resnet18v2", "--set", "model.width_factor=0.25"]
    process = subprocess.Popen([sys.executable, "-m", "resnetv2", *map(str, words)], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (out / "checkpoints").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode in (0, 143)  # 0: it was faster than the signal
    again = command(*words, "--resume")
    assert again.returncode == 0, again.stderr
    assert [line["step"] for line in log_of(out)] == [line["step"] for line in log_of(trained)]


def test_a_run_of_the_gpu_goes_on_on_the_cpu(colours, tmp_path):
    out = tmp_path / "run"
    resnetv2.train(colours, out=out, **SETTINGS, set=TINY)
    resnetv2.train(colours, out=out, **(SETTINGS | {"device": "cpu"}), set=TINY, resume=True)
    assert [line["epoch"] for line in log_of(out)] == [1, 2]


def test_a_batch_that_does_not_fit_is_one_clear_message(colours, tmp_path):
    held = torch.empty(int(torch.cuda.mem_get_info()[0] * 0.97), dtype=torch.uint8, device="cuda")
    try:
        done = command(
            "train", colours, "--out", tmp_path / "run", "--epochs", 1, "--image-size", 448, "--batch-size", 24,
            "--device", "cuda",
        )  # fmt: skip
    finally:
        del held
        torch.cuda.empty_cache()
    assert done.returncode == 2
    assert "out of memory" in done.stderr
    assert "Traceback" not in done.stderr


def test_predictions_of_a_folder_do_not_depend_on_the_device(trained, colours):
    model = trained / "best.safetensors"
    answers = [command("predict", model, colours / "test", "--json", "--device", d) for d in ("cpu", "cuda")]
    assert [a.returncode for a in answers] == [0, 0], answers[1].stderr
    lines = [[json.loads(line) for line in a.stdout.splitlines()] for a in answers]
    assert len(lines[0]) == len(lines[1]) > 0
    assert [line["label"] for line in lines[0]] == [line["label"] for line in lines[1]]


def test_fused_kernels_give_the_plain_steps_loss_gradients_and_statistics():
    pictures = torch.randn(16, 3, 96, 96, device="cuda").to(memory_format=torch.channels_last)
    labels = torch.randint(10, (16,), device="cuda")
    found = {}
    for name, kernels, dtype in (("exact", "plain", None), ("plain", "plain", "bf16"), ("fused", "fused", "bf16")):
        torch.manual_seed(0)
        model = resnetv2.create_model("resnet50v2", num_classes=10, kernels=kernels).cuda()
        model = model.to(memory_format=torch.channels_last).train()
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype is not None):
            loss = torch.nn.functional.cross_entropy(model(pictures).float(), labels)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        statistics = torch.cat([b.flatten() for n, b in model.named_buffers() if "running" in n])
        found[name] = loss.detach()[None], gradient, statistics
    for exact, plain, fused in zip(*found.values(), strict=True):
        # bfloat16 has 4e-3: a loss may keep a few roundings, gradients and statistics stray as the plain ones do
        assert (fused - exact).norm() <= 2 * (plain - exact).norm() + 1e-2 * exact.norm()
