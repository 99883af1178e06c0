"""A step of training, in its order: draw, look, keep, arrange, weigh, record, match.

Examples come from the plain trainer's sampler, or from one of `samplers` that goes by sources, raw
and in `pools`; `draw` sizes the pools and unpacks them. `look` is what the model shows of them,
`keep` which are trained on, `arrange` how they share micro-batches, `weigh` what each counts for
as it is collated; `record` is what the log gets to know, `match` how good the choice was.
"""
