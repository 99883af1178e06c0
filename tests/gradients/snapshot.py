"""All that looking at examples must leave of a model as it was."""

import torch


class Snapshot:
    """What can be compared before and after."""

    def __init__(self, model):
        self.modes = [module.training for module in model.modules()]
        self.hooks = [
            (len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in m.__dict__)
            for m in model.modules()
        ]
        self.requires_grad = [parameter.requires_grad for parameter in model.parameters()]
        self.gradients = [parameter.grad is None for parameter in model.parameters()]
        self.tensors = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
        self.weights = [parameter.detach().clone() for parameter in model.parameters()]
        self.random = torch.random.get_rng_state()
        self.grad_mode = torch.is_grad_enabled()

    def assert_same(self, other):
        for name in ("modes", "hooks", "requires_grad", "gradients", "tensors", "grad_mode"):
            assert getattr(self, name) == getattr(other, name), name
        assert torch.equal(self.random, other.random)
        assert all(map(torch.equal, self.weights, other.weights))
