"""A tiny CLIP made for the demo: its weights, its configuration and the script that trained it."""
