"""Clips in and out: files of moving pictures to frames, and frames to files."""
