"""Which answers are right."""
