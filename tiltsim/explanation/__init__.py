"""Is it the crystal or the tilt: mis-tilt read from an image, maps corrected for it, and what cannot be known."""
