"""What may go wrong when a file is made or checked."""


class ExportError(RuntimeError):
    """A converted file has foreign operators or does not compute what it should."""
