"""Benchmarks, one file a question, each with a ``main`` that measures and writes a result."""
