"""The one error a user of this package meets."""

from __future__ import annotations


class ModelError(ValueError):
    """A setting, a file or an image this package cannot work with; the message names it and the fix."""
