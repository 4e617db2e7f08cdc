"""The one exception family that ends as a one-line message at the command line."""


class NcbatchError(Exception):
    """Something a person can act on.

    The message is one sentence that names what is wrong and the fix; the command line prints it
    without a traceback. Rooms derive their own errors from it. Everything else that escapes is a bug.
    """


class UsageError(NcbatchError):
    """The request itself cannot be carried out as given (wrong flag, wrong value, wrong place)."""
