"""The mathematics: torch and nothing else."""
