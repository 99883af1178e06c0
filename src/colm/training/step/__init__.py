"""A step of training, in its order: draw, look, keep, arrange, weigh, record, match.

`draw` says which examples come, `look` what the model shows of them, `keep` which are trained on,
`arrange` how they share micro-batches, `weigh` what each counts for; `record` is what the log gets
to know, `match` how good the choice was. Beside `draw` stand the `samplers`, the `source_columns`
that they go by, `streaming`, and `pools` in which examples come raw; beside `look`, its `chunks`.
"""
