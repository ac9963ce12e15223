"""Folders as timm and transformers load them, here and on the Hugging Face hub."""
