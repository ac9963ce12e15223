"""The model file: weights that carry their architecture, preprocessing, classes and proof."""
