"""What is shown to a user as one line, with a non-zero exit."""


class InputError(ValueError):
    """Bad input: the message says in one line what is wrong, where, and what was expected."""


class TemporaryError(Exception):
    """What may be gone by itself: the same thing tried again may succeed. No InputError, which is final."""
