"""Runs from a configuration: their directories, what they need, and several side by side.

experiment.py                     one run, from data to result
run_directory.py, resumption.py   its files; going on where it was interrupted
checkpoint.py, logger.py          checkpoints; the log of trajectories
analysis_subjects.py              what of it can be analysed without training again
signals.py                        what stops it
expectations.py                   time and memory that it will need
comparison.py, summary.py         several methods and seeds, and their table
"""
