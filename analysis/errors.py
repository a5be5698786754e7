"""The one exception for an image, a file or a request that cannot be measured."""

from __future__ import annotations


class ImageError(ValueError):
    """Bad input, said in one sentence that names the file or parameter and the fix."""
