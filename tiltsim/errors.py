"""Errors a user can mend."""


class SettingsError(ValueError):
    """A setting that cannot be simulated; the message names it and the fix."""
