"""``ZerothOrderOptimizer``: training by losses alone, in the memory of inference.

    slope_j = (L(W + eps z_j) - L(W - eps z_j)) / 2 eps         two forwards, no backward
    W      <- W - lr u,  u from the estimate  (1/q) sum_j slope_j z_j

Paper: MeZO, arXiv 2305.17333; other estimators and updates: ZO-LLM, arXiv 2402.11592. Weights are
never written to but by an update (`MovedWeights`), and an update of bfloat16 weights is rounded at
random, so that small ones add up. What a step did is its slopes and learning rates: from them, the
seed and the first weights, `colm.memory.step_log.replay_log` makes the last ones again, to the bit.
Symbols: q directions z_j a step, W a weight, L the loss.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.optim import Optimizer

from colm.gradients.patching import evaluation_mode
from colm.memory.moved_weights import MovedWeights
from colm.memory.random_directions import RandomDirections, generator_on, pieces_of
from colm.memory.subspaces.rounding import round_to
from colm.memory.zeroth_order_options import TakenStep, ZerothOrderOptions

#: Computes the loss of a batch, one number.
Closure = Callable[[], Any]
#: Rows of a weight, and values of theirs.
Pieces = Iterator[tuple[Any, Tensor]]


class ZerothOrderOptimizer(Optimizer):
    """Trains a model by its losses: no backward, no gradients.

    ``step(closure)`` is a step, where ``closure`` computes the loss of a batch; for a batch in
    parts, ``measure(closure)`` of each, then ``step()``, and their losses are added up. The model
    is in evaluation mode meanwhile. Costs for each direction two forwards (``one_sided``: one, and
    one more a step; ``forward_gradient``: one with derivatives), and drawing z for each and for the
    update. ``adam`` keeps two numbers a weight, ``momentum`` one (with ``low_rank``, r a row), the
    others none.

    Args:
        model: whose weights are moved.
        groups: of its weights, as for any optimiser; all that require gradients where ``None``.
        lr: learning rate.
        weight_decay: decoupled, as in AdamW.
        average: makes numbers ``[k]`` the means of those of all processes that hold the model.
        options: those of `ZerothOrderOptions`.

    Attributes:
        options: settled.
        names: of the weights, by ``id``.
        steps: that were taken since the first weights.

    Raises:
        ValueError: an option out of range, or a weight that cannot be trained so.

    Example:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> x, y = torch.eye(2), torch.tensor([[1.0], [-1.0]])
        >>> optimizer = ZerothOrderOptimizer(model, lr=0.1)
        >>> losses = [optimizer.step(lambda: (model(x) - y).square().mean()) for _ in range(200)]
        >>> losses[-1] < 1e-4, model.weight.grad is None
        (True, True)
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Iterable[Any] | None = None,
        *,
        lr: float = 1e-6,
        weight_decay: float = 0.0,
        average: Callable[[Tensor], Tensor] | None = None,
        **options: Any,
    ) -> None:
        self.options = known = ZerothOrderOptions(**options)
        self.model, self.average = model, average
        self.steps: list[TakenStep] = []
        self._directions = RandomDirections(
            known.direction, rank=known.rank, refresh=known.refresh, seed=known.seed
        )
        if groups is None:
            groups = [weight for weight in model.parameters() if weight.requires_grad]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        self.names = _names_of(model, self._held())
        self._unread = set(self.names.values())
        self._begin_step()

    def _begin_step(self) -> None:
        self._measured: list[list[float]] = []
        self._losses: list[float] = []
        self._closures: list[Closure] = []
        self._slopes: list[float] | None = None

    @torch.no_grad()
    def measure(self, closure: Closure) -> float:
        """Measure the slopes of a batch, or of a part of one, for the step that is next.

        Args:
            closure: computes the loss, always of the same examples and in the same way.

        Returns:
            The loss at the weights; with ``central``, the mean of those to both sides of them.

        Raises:
            ValueError: ``forward_gradient`` meets an operation without such derivatives.
        """
        with evaluation_mode(self.model):
            slopes, loss = self._estimated(closure)
        self._measured.append(slopes)
        self._losses.append(loss)
        if self.options.update == "conservative":
            self._closures.append(closure)
        return loss

    @property
    def slopes(self) -> list[float]:
        """Slopes ``[q]`` of all that was measured for the step that is next, in all processes."""
        if self._slopes is None:
            if not self._measured:
                raise ValueError("step() needs a closure, or measure(closure) before it.")
            sums = [math.fsum(along) for along in zip(*self._measured, strict=True)]
            self._slopes = self._averaged(sums)
        return self._slopes

    @property
    def gradient_norm(self) -> float:
        """The norm of the gradient as slopes tell it: the mean of their squares is its square."""
        return math.sqrt(math.fsum(slope * slope for slope in self.slopes) / len(self.slopes))

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> float | None:  # type: ignore[override]
        """Take a step by what was measured, of ``closure`` where one is given; return its loss.

        Raises:
            ValueError: nothing was measured, or the loss does not read a weight.
        """
        loss = None if closure is None else self.measure(closure)
        slopes = tuple(self.slopes)
        if self._unread:
            raise ValueError(
                f"the loss does not read {min(self._unread)} through PyTorch, so that no slope is "
                f"known of {len(self._unread)} weights: set requires_grad=False for them, or do "
                "without the kernels that read them."
            )
        taken = TakenStep(slopes, tuple(float(group["lr"]) for group in self.param_groups))
        self.take(self._best(taken) if self.options.update == "conservative" else taken)
        return loss

    @torch.no_grad()
    def take(self, taken: TakenStep) -> None:
        """Take a step whose slopes are known, as when a run is made again."""
        for name, weight, group, rate in self._weights(taken):
            if taken.sign:
                for rows, values in self._stepped(name, weight, taken, group, rate):
                    weight[rows] = values
        self.steps.append(taken)
        self._begin_step()

    def _estimated(self, closure: Closure) -> tuple[list[float], float]:
        """Slopes of a closure's loss along each direction, and the loss."""
        numbers, epsilon = range(self.options.directions), self.options.epsilon
        if self.options.estimator == "forward_gradient":
            found = [self._derivative(closure, number) for number in numbers]
            return [slope for _, slope in found], found[0][0]
        if self.options.estimator == "one_sided":
            loss = float(closure())
            ahead = [self._loss_along(closure, number, epsilon) for number in numbers]
            return [(each - loss) / epsilon for each in ahead], loss
        slopes, losses = [], []
        for number in numbers:
            high, low = (self._loss_along(closure, number, by) for by in (epsilon, -epsilon))
            slopes.append((high - low) / (2 * epsilon))
            losses += [high, low]
        return slopes, math.fsum(losses) / len(losses)

    def _loss_along(self, closure: Closure, number: int, by: float) -> float:
        """The loss with the weights moved along a direction."""

        def move(name: str, weight: Tensor) -> Tensor:
            rounding = self._rounding(weight, name, number, "+" if by > 0 else "-")
            changes = self._changes(name, weight, {number: by})
            moved = ((rows, weight[rows] + change) for rows, change in changes)
            return _filled(weight, _rounded(moved, weight, rounding))

        return float(self._at(move, closure))

    def _derivative(self, closure: Closure, number: int) -> tuple[float, float]:
        """The loss, and its derivative along a direction."""

        def move(name: str, weight: Tensor) -> Tensor:
            direction = _filled(weight, self._changes(name, weight, {number: 1.0}))
            dual: Tensor = forward_ad.make_dual(weight, direction)
            return dual

        with warnings.catch_warnings():
            # What forward_ad loads when it is first used compiles in a way that is deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            import torch._decomp.decompositions_for_jvp  # noqa: F401
        try:
            with forward_ad.dual_level():
                loss, slope = forward_ad.unpack_dual(self._at(move, closure))
                return float(loss), 0.0 if slope is None else float(slope)
        except RuntimeError as error:
            if "forward AD" not in str(error) and "forward mode AD" not in str(error):
                raise
            raise ValueError(
                "estimator='forward_gradient' needs derivatives along a direction of all that the "
                "model computes with, such as attn_implementation='eager' has; set that, or "
                f"estimator='central': {str(error).splitlines()[0]}"
            ) from error

    def _best(self, taken: TakenStep) -> TakenStep:
        """Of a step, none, and the opposite one, that with the least loss."""
        signs = (0, 1, -1)
        losses = []
        for sign in signs:
            if sign == 0 and self.options.estimator != "central":
                losses.append(math.fsum(self._losses))
                continue
            tried = taken._replace(sign=sign)
            with evaluation_mode(self.model):
                losses.append(math.fsum(self._loss_after(tried, each) for each in self._closures))
        losses = self._averaged(losses)
        return taken._replace(sign=signs[losses.index(min(losses))])

    def _loss_after(self, taken: TakenStep, closure: Closure) -> float:
        """The loss that a step would lead to."""
        if not taken.sign:
            return float(closure())
        known = {name: (group, rate) for name, _, group, rate in self._weights(taken)}

        def move(name: str, weight: Tensor) -> Tensor:
            return _filled(weight, self._stepped(name, weight, taken, *known[name]))

        return float(self._at(move, closure))

    def _at(self, move: Callable[[str, Tensor], Tensor], closure: Closure) -> Any:
        """What a closure returns where reading a weight gives what ``move`` makes of it."""
        with MovedWeights(self.names, move) as moved:
            loss = closure()
        self._unread -= moved.read
        return loss

    def _stepped(
        self, name: str, weight: Tensor, taken: TakenStep, group: Mapping[str, Any], rate: float
    ) -> Pieces:
        """Yield rows of a weight as a step makes them."""
        share = taken.sign / len(taken.slopes)
        shares = {number: slope * share for number, slope in enumerate(taken.slopes)}
        keep = 1 - rate * group["weight_decay"]
        stepped = (
            (rows, weight[rows].to(update) * keep - rate * update)
            for rows, update in self._updates(name, weight, shares)
        )
        return _rounded(stepped, weight, self._rounding(weight, name, "update"))

    def _updates(self, name: str, weight: Tensor, shares: Mapping[int, float]) -> Pieces:
        """Yield rows of a weight, and what a learning rate takes off them."""
        drawn = self._directions
        of_factors = drawn.kind == "low_rank" and drawn.has_factors(weight)
        if self.options.update == "momentum" and of_factors:
            ball = self._ball_of_factors(name, weight, shares)
            right = drawn.right(name, weight, len(self.steps))
            for rows in pieces_of(weight):
                yield rows, ball[rows] @ right
            return
        for rows, estimate in self._changes(name, weight, shares):
            yield rows, self._update(weight, rows, estimate)

    def _ball_of_factors(self, name: str, weight: Tensor, shares: Mapping[int, float]) -> Tensor:
        """The heavy ball ``[m, r]`` of estimates that share their other factor.

        Where that is drawn anew, what the new one can express of the ball goes on, by least
        squares.  Paper: LOZO-M, arXiv 2410.07698.
        """
        step, drawn, state = len(self.steps), self._directions, self.state[weight]
        left = drawn.left(name, weight, step, shares)
        ball: Tensor = state.setdefault("momentum", torch.zeros_like(left))
        if step and step % drawn.refresh == 0:
            old, new = (drawn.right(name, weight, each).double() for each in (step - 1, step))
            # Not by lstsq, of which the last bits depend on where its tensors lie.
            change = torch.linalg.solve(new @ new.T, new @ old.T).to(ball)
            ball.copy_(ball @ change.T)
        return ball.mul_(self.options.momentum).add_(left)

    def _update(self, weight: Tensor, rows: Any, estimate: Tensor) -> Tensor:
        """What a learning rate takes off a weight's rows, by the estimate of their gradient."""
        known = self.options
        if known.update == "sign":
            return estimate.sign()
        if known.update == "momentum":
            ball = self._moment("momentum", weight, estimate)[rows]
            return ball.mul_(known.momentum).add_(estimate)
        if known.update == "adam":
            mean = self._moment("exp_avg", weight, estimate)[rows]
            square = self._moment("exp_avg_sq", weight, estimate)[rows]
            mean.lerp_(estimate, 1 - known.beta1)
            square.lerp_(estimate.square(), 1 - known.beta2)
            number = len(self.steps) + 1
            root = (square / (1 - known.beta2**number)).sqrt_().add_(known.eps)
            return mean / (1 - known.beta1**number) / root
        return estimate

    def _moment(self, name: str, weight: Tensor, like: Tensor) -> Tensor:
        """What is kept of a weight between steps, in the type of estimates."""
        state = self.state[weight]
        if name not in state:
            state[name] = torch.zeros_like(weight, dtype=like.dtype)
        kept: Tensor = state[name]
        return kept

    def _changes(self, name: str, weight: Tensor, coefficients: Mapping[int, float]) -> Pieces:
        return self._directions.combined(name, weight, len(self.steps), coefficients)

    def _rounding(self, weight: Tensor, name: str, *what: int | str) -> torch.Generator:
        """The generator that rounds a weight in this step."""
        key = (self.options.seed, "rounding", len(self.steps), *what, name)
        return generator_on(weight.device, *key)

    def _averaged(self, values: list[float]) -> list[float]:
        """Means over processes."""
        if self.average is None:
            return values
        means: list[float] = self.average(torch.tensor(values, dtype=torch.float64)).tolist()
        return means

    def _weights(self, taken: TakenStep) -> Iterator[tuple[str, Tensor, Mapping[str, Any], float]]:
        """Yield every weight with its name, its group, and its learning rate in a step."""
        for group, rate in zip(self.param_groups, taken.rates, strict=True):
            for weight in group["params"]:
                yield self.names[id(weight)], weight, group, rate

    def _held(self) -> list[Tensor]:
        return [weight for group in self.param_groups for weight in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        """Return the state of an optimiser, and the steps that were taken."""
        return super().state_dict() | {"steps": [list(step) for step in self.steps]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned; moments stay in float32 whatever their weights are."""
        super().load_state_dict(state_dict)
        held = self._held()
        for place, state in state_dict["state"].items():
            device = held[place].device
            self.state[held[place]] = {k: v.to(device, copy=True) for k, v in state.items()}
        self.steps = [TakenStep.of(values) for values in state_dict["steps"]]
        self._begin_step()


def _names_of(model: nn.Module, weights: Iterable[Tensor]) -> dict[int, str]:
    """Names of weights in a model, by ``id``.

    Raises:
        ValueError: a weight is not the model's, or cannot be moved.
    """
    known = {id(weight): name for name, weight in model.named_parameters()}
    names = {}
    for weight in weights:
        name = known.get(id(weight))
        if name is None:
            raise ValueError("groups have a weight that is not the model's.")
        if hasattr(weight, "device_mesh"):
            raise ValueError(f"{name} is in parts: zeroth-order training needs whole weights.")
        if weight.dtype not in (torch.bfloat16, torch.float32, torch.float64):
            raise ValueError(
                f"{name} is in {str(weight.dtype).removeprefix('torch.')}, where small updates are "
                "lost: load the model in bfloat16 or float32."
            )
        names[id(weight)] = name
    return names


def _filled(weight: Tensor, pieces: Pieces) -> Tensor:
    """A tensor like a weight from its rows."""
    whole = torch.empty_like(weight)
    for rows, values in pieces:
        whole[rows] = values
    return whole


def _rounded(pieces: Pieces, weight: Tensor, generator: torch.Generator) -> Pieces:
    """Rows in the type of their weight."""
    for rows, values in pieces:
        yield rows, round_to(values, weight.dtype, "stochastic", generator)
