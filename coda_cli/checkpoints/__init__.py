"""Checkpoints: files to networks and back."""
