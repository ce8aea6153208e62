"""Settings of every test: property tests draw the same examples on every machine."""

from hypothesis import settings

settings.register_profile("diagfim", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("diagfim")
