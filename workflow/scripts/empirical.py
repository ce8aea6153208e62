"""The bias of the empirical Fisher and of Adam's accumulator, beside the noise of Î1 and Î2."""
