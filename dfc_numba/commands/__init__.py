"""What the longer commands of the command line do: simulate, replay, inspect, analyze."""
