"""Weights of published ResNet-v2 checkpoints, between their publishers' files and ours."""
