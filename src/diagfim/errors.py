"""Errors that a user can mend: one sentence that names the culprit and the remedy."""


class UserError(ValueError):
    """A mistake in the input, not in the program.

    The message is a single line naming the key, file or module at fault, the value found, what was
    expected and what to do.  Programs print it without a traceback.  What another library had to
    say may come with line ends; they become spaces.

    Parameters
    ----------
    message : str
        The line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
