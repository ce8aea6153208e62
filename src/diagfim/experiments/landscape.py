"""Which estimator wins: activations, depths, widths and stages of training, by layer."""
