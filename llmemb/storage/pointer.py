"""A file that names one of several folders beside it: the newest, or the live one."""

import re

from llmemb.errors import InputError
from llmemb.storage.compare_and_swap import swap
from llmemb.storage.listing import exists
from llmemb.storage.objects import read_bytes


def pointed_at(uri: str, names: re.Pattern[str], *, expected: str) -> str | None:
    """The name in it; None where there is no such file.

    Args:
        names: What a name may look like; anything else could lead out of the root.
        expected: That in words.

    Raises:
        InputError: it holds something else.
    """
    if not exists(uri):
        return None
    found = _name_in(read_bytes(uri))
    if not names.fullmatch(found):
        raise InputError(f"{uri}: expected {expected}, got {found[:40]!r}")
    return found


def point(uri: str, name: str, *, previous: str | None) -> bool:
    """Lets it name another folder if it still names the previous one, or nothing; whether it did.

    Where the store can, in one step that only one of several can take.
    """
    found = read_bytes(uri) if exists(uri) else None
    named = None if found is None else _name_in(found)
    if named != previous:
        return named == name
    return swap(uri, f"{name}\n".encode(), found)


def _name_in(content: bytes) -> str:
    """Without the end of the line, which one that was written by hand may lack or have in another way."""
    return content.decode(errors="replace").strip()
