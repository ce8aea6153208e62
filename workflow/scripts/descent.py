"""Diagonal natural-gradient descent on MNIST with every estimator."""
