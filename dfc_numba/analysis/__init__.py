"""What the theory says of a network and of what a run has learned."""
