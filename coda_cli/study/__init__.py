"""The papers' measurements of explanations."""
