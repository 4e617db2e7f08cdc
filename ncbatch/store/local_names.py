r"""File names as keys, and keys as file names.

A file name is bytes, a key is text; the text is UTF-8 whatever the locale says, since keys are stored and
compared on other machines. A byte that is not part of UTF-8 stands in a key as \xe9 (so that `caf\xe9.png` is
a Latin-1 `café.png`), and a backslash that would read so, as \x5c.
"""

import re

_READS_AS_BYTE = re.compile(rb"\\(?=x(?:5c|[89a-f][0-9a-f]))")
_BYTE = re.compile(rb"\\x(5c|[89a-f][0-9a-f])")


def key_of_name(name: bytes) -> str:
    """The key of a file at a path below a store's root; distinct for distinct paths."""
    return _READS_AS_BYTE.sub(rb"\\x5c", name).decode("utf-8", "backslashreplace")


def name_of_key(key: str) -> bytes:
    """The path, below a store's root, of the file that has this key.

    Raises:
        ValueError: no file has this key; a UnicodeEncodeError where the key is no text.
    """
    name = _BYTE.sub(lambda match: bytes([int(match[1], 16)]), key.encode())
    if key_of_name(name) != key:
        raise ValueError(f"the escapes of {key!r} are of bytes that need none")
    return name


def shown(path: bytes) -> str:
    """A path as a message shows it."""
    return path.decode("utf-8", "backslashreplace")
