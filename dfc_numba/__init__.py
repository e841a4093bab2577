"""A fast CPU simulator of Deep Feedback Control."""
