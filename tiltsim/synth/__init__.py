"""Synthetic micrographs with ground truth."""
