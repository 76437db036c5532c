"""The demo encoder: what open_clip loads, and how it was trained."""
