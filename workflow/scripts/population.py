"""The Fisher information and both variances over the whole test set, through training."""
