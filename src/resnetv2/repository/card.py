"""``README.md`` of a repository: what the model is, in the form that the hub reads."""

from __future__ import annotations

import json
from typing import Any

from resnetv2.weights.modelfile import Header

_LOADING = {
    "timm": """import timm

model = timm.create_model("{source}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)""",
    "transformers": """from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("{source}")
model = AutoModelForImageClassification.from_pretrained("{source}")""",
}
_MOST = 50  # class names that are listed


def write_card(header: Header, to: str, repo: str = "") -> str:
    """Return the card of a network in the format ``to``, as it is loaded from the repository, or from a folder."""
    source = repo or "FOLDER"
    theirs = f"{'hf-hub' if repo else 'local-dir'}:{source}" if to == "timm" else source
    facts: dict[str, Any] = {"library_name": to, "pipeline_tag": "image-classification", "tags": ["resnetv2", to]}
    licence = header.provenance.get("licence")
    front = "\n".join(f"{name}: {json.dumps(value)}" for name, value in facts.items())
    pixels = header.preprocessing
    names = ", ".join(header.classes[:_MOST]) + (" …" if len(header.classes) > _MOST else "")
    lines = [
        f"---\n{front}\n---\n",
        f"# {repo.rpartition('/')[2] or 'ResNet-v2'}\n",
        f"A pre-activation ResNet (He et al. 2016, arXiv 1603.05027), written by resnetv2 for {to}.\n",
        f"- task: {header.task}",
        f"- classes: {len(header.classes)}" + (f" ({names})" if names else ""),
        f"- pictures: RGB, {pixels.image_size} pixels of {pixels.resize} ({pixels.fit}, {pixels.interpolation})",
        *([f"- licence: {licence}"] if licence else []),
        *(f"- {name}: {json.dumps(value)}" for name, value in header.metrics.items()),
        *_tell_calibration(header, to),
        f"\n```python\n{_LOADING[to].format(source=theirs)}\n```\n",
        f'```python\nimport resnetv2\n\nclassifier = resnetv2.from_pretrained("{source}")\n```\n',
    ]
    return "\n".join(lines)


def _tell_calibration(header: Header, to: str) -> list[str]:
    """Return what users of another library must do themselves where a model is calibrated."""
    if header.calibration is None:
        return []
    temperature = f"{header.calibration.temperature:.6g}"
    told = (
        f"\nThis model is calibrated, and {to} does not apply that: divide logits by {temperature} before the softmax "
        "to have its probabilities. `resnetv2.from_pretrained` does. When to abstain is in the model file alone."
    )
    return [told]
