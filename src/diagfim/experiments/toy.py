"""Natural-gradient descent on the two-dimensional toy data of Figures 1 and I to IV."""
