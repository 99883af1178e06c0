"""Coresets: tensors in, indices out. Nothing here knows a model or a trainer.

`similarity` compares examples, `facility_location` and `mean_matching` choose among them, `mixture`
shares a budget among sources, and `medoids` puts these together the way CoLM does. `methods` and
`baselines` are selectors made of them, which `registry` knows by name; `selector` is a whole
selection step, on candidates in their `canonical_order`.
"""
