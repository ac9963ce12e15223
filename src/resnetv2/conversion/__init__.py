"""Weights of published ResNet-v2 checkpoints, between their publishers' files and ours."""

from resnetv2.conversion.checkpoints import Checkpoint, read_checkpoint
from resnetv2.conversion.recognition import Candidate, recognise
from resnetv2.conversion.writers import write_checkpoint

__all__ = ["Candidate", "Checkpoint", "read_checkpoint", "recognise", "write_checkpoint"]
