"""What a user can mend: shown as one line, with a non-zero exit."""


class InputError(ValueError):
    """Bad input: the message says in one line what is wrong, where, and what was expected."""
