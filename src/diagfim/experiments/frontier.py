"""Error against measured seconds of every estimator, and the draws that a precision takes."""
