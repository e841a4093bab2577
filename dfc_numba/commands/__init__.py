"""The longer commands of the command line: simulate, replay, inspect, analyze."""
