"""The package's version; the protocol has its own (`difs.messages.PROTOCOL`)."""

__version__ = "0.1.0"
