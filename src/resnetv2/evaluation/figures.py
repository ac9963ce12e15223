"""The headline figures of each task, the most important first. Standard library only."""

# Of each task: a figure's key, its name, how it is written.
FIGURES = {
    "classification": (
        ("top1", "top-1", "{:.2%}"),
        ("top5", "top-5", "{:.2%}"),
        ("balanced_accuracy", "balanced accuracy", "{:.2%}"),
        ("roc_auc", "ROC-AUC", "{:.4f}"),
        ("average_precision", "average precision", "{:.2%}"),
        ("log_loss", "log loss", "{:.4f}"),
        ("brier", "Brier score", "{:.4f}"),
        ("ece", "calibration error", "{:.2%}"),
    ),
    "multilabel": (
        ("map", "mean average precision", "{:.2%}"),
        ("exact_match", "all labels right", "{:.2%}"),
        ("roc_auc", "ROC-AUC", "{:.4f}"),
    ),
    "regression": (
        ("mae", "mean absolute error", "{:.4g}"),
        ("rmse", "root mean squared error", "{:.4g}"),
        ("r2", "R²", "{:.4f}"),
        ("bias", "bias", "{:+.4g}"),
    ),
}
