"""The version of this program, in one place that costs nothing to import."""

VERSION = "0.1.0"

PROTOCOL_VERSION = 1
"""Of the control sockets (`pipefs.protocol`)."""
