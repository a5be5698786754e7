"""The one error that a caller of :mod:`structures` has to expect."""


class SpecimenError(ValueError):
    """A specimen that cannot be built as asked; the message names the parameter and the fix."""
