"""Figures one can stand behind: ``metrics`` computes them, ``run`` evaluates a model on data."""
