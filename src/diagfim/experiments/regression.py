"""A network with Gaussian outputs, where Theorem 4.1 holds with equality (Proposition 5.1)."""
