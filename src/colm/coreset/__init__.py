"""Coresets: tensors in, indices out. Nothing here knows a model or a trainer.

`similarity` compares examples, `facility_location` and `mean_matching` choose among them, `mixture`
shares a budget among sources, and `medoids` puts these together the way CoLM does. `selectors` are
made of them, `registry` knows them by name, and `coreset_selector` is a whole selection step, on
`candidates` in an order of their own.
"""
