"""Response libraries: the image of a cell over displacement, tilt, thickness and composition."""
