"""Networks as ``torch.export`` archives (.pt2): written, and run by PyTorch."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resnetv2.errors import ModelFileError
from resnetv2.model import ResNetV2
from resnetv2.preprocess import Preprocessing
from resnetv2.runtime.graph import FEATURES, LOGITS
from resnetv2.runtime.pytorch import Normalize, choose_device
from resnetv2.runtime.session import POOLED, check_finite, check_layer, one_memory_error

_ARRAY = re.compile(r"(weight|tensor)_\d+")
_MEMBER = re.compile(  # what an archive of ours has, below the folder of its name
    rf"data/weights/({_ARRAY.pattern}|model_weights_config\.json)|data/constants/({_ARRAY.pattern}|model_constants_config"
    r"\.json)|models/model\.json|data/sample_inputs/model\.pt|extra/resnetv2\.json|archive_(format|version)|byteorder"
    r"|\.data/\w+|\.\w+"
)


class Whole(nn.Module):
    """uint8 (N, H, W, 3) RGB -> logits (N, num_classes), if there is a head, and pooled features (N, num_features)."""

    def __init__(self, model: ResNetV2, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.normalize = Normalize(preprocessing)
        self.model = model

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        features = self.model.forward_head(self.model.forward_features(self.normalize(pictures)), pre_logits=True)
        return (
            {LOGITS: self.model.head.fc(features), FEATURES: features}
            if self.model.num_classes
            else {FEATURES: features}
        )


class ExportedSession:
    """Logits by PyTorch, from a ``torch.export`` archive.

    Args:
        path: the archive.
        device: "auto", "cpu", "cuda", "mps".

    Raises:
        ModelFileError: PyTorch refuses the archive, or it holds what ``save_program`` does not write, such as pickled
            values, which could run any code when they are read.
    """

    runtime = "torch"

    def __init__(self, path: Path, device: str = "auto") -> None:
        _refuse_foreign(path)
        self.device = choose_device(device)
        try:
            program = torch.export.load(path)
            if self.device.type != "cpu":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, self.device)
            self.forward = program.module()
        except Exception as error:  # the exporter raises nearly anything on what another version wrote
            raise ModelFileError(f"PyTorch refuses {path}: {type(error).__name__}: {error}") from error

    def __call__(self, pictures: np.ndarray) -> np.ndarray:
        """uint8 (N, H, W, 3) RGB -> logits float32 (N, num_classes); see ``Session``."""
        outputs = self._run(pictures)
        return check_finite(outputs[LOGITS] if LOGITS in outputs else outputs[FEATURES])

    def features(self, pictures: np.ndarray, layer: str = POOLED) -> np.ndarray:
        """uint8 (N, H, W, 3) RGB -> pooled features float32 (N, num_features); an archive has no other layers."""
        check_layer(layer, [POOLED])
        return self._run(pictures)[FEATURES]

    def with_features(self, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (N, H, W, 3) RGB -> logits and pooled features; see ``Session``."""
        outputs = self._run(pictures)
        return check_finite(outputs.get(LOGITS, outputs[FEATURES])), outputs[FEATURES]

    @torch.inference_mode()
    def _run(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        with one_memory_error(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            outputs = self.forward(torch.from_numpy(pictures).to(self.device))
            return {name: value.cpu().numpy() for name, value in outputs.items()}


def export_program(model: ResNetV2, preprocessing: Preprocessing) -> Any:
    """Return the exported program of a network: any number of pictures of the preprocessing's size."""
    side = preprocessing.image_size
    pictures = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    sizes = ({0: torch.export.Dim.DYNAMIC},)
    whole = Whole(model, preprocessing).eval()
    with torch.no_grad():
        program = torch.export.export(whole, (pictures,), dynamic_shapes=sizes)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of the machine that exported
    return program


def save_program(path: Path, program: Any, text: str) -> None:
    """Write a program with an artefact's text among its extra files."""
    buffer = io.BytesIO()  # where a disk is full, torch's own writing ends the process
    torch.export.save(program, buffer, extra_files={"resnetv2.json": text})
    path.write_bytes(buffer.getbuffer())


def _refuse_foreign(path: Path) -> None:
    """Refuse an archive with more in it than arrays, the graph and our text: PyTorch would unpickle or load that."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        foreign = [name for name in names if not _MEMBER.fullmatch(name.partition("/")[2])]
        if foreign or len(set(names)) < len(names):
            raise ModelFileError(f"{path} holds {(foreign or ['one name twice'])[0]}, which no export writes")
        for name in names:
            if name.endswith("_config.json"):
                entries = json.loads(archive.read(name)).get("config", {}).values()
                if any(
                    entry.get("use_pickle") or not _ARRAY.fullmatch(entry.get("path_name", "")) for entry in entries
                ):
                    raise ModelFileError(f"{path} holds pickled values, which could run any code")
            elif name.endswith(".pt"):
                try:
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
                except Exception as error:  # PyTorch's reader would go on and unpickle it
                    raise ModelFileError(f"{path} holds pickled values, which could run any code") from error
