"""Training: ``run`` is the visible path; ``optim``, ``checkpoint`` and ``display`` are what it uses."""
