"""Per-sample first and second derivatives of the network outputs, factored by layer."""
