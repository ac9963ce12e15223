"""Figures one can stand behind: what they are, and ``run``, which evaluates a model on data."""
