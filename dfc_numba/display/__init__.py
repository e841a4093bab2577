"""What people see: progress, tables, figures of runs and trajectories."""
