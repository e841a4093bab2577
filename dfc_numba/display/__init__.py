"""Output for people: progress, tables, figures of runs and trajectories."""
