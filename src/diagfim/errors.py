"""Errors that a user can mend: one sentence that names the culprit and the remedy."""


class UserError(ValueError):
    """A mistake in the input, not in the program.

    The message is a single line naming the key, file or module at fault, the value found, what was
    expected and what to do.  Programs print it without a traceback.
    """
