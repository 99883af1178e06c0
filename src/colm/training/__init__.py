"""The trainers, and what a step of theirs is made of.  Below here only torch is imported."""
