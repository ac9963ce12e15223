"""Pictures with labels: what there is (``index``), what is wrong with it (``check``), and batches of it (``load``)."""
