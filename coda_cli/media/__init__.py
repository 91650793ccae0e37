"""Pictures in and out, and their geometry."""
