"""Elastic weight consolidation on Split MNIST with every estimator."""
