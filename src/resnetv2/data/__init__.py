"""Pictures with labels: what there is (``index``), whether it can be read (``check``), and batches of it (``load``)."""
