"""What the library costs and what it gains; `python -m benchmarks` lists what is measured."""
