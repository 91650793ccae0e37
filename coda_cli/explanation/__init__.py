"""Explain a picture, many pictures or a clip; draw, write and record the explanations."""
