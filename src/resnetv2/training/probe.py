"""Linear models on frozen features, their strength chosen by cross-validation: what becomes ``head.fc``.

Features are standardised and divided by the square root of their number, so that one range of strengths serves every
network. What is minimised is the mean loss + strength / 2 · the sum of squared weights; biases are free. scikit-learn's
``C`` is 1 / (strength · pictures).

All folds are fitted at once by L-BFGS (Liu and Nocedal 1989), each with its own steps: they read the features together,
and that is most of the work. Coordinates are the principal axes of the features, each scaled by the curvature that the
loss has along it at the start. Every strength starts from the result of its neighbour, or on the line through two: one
decade changes weights much as the decade before did. ``BENCHMARKS.md`` compares the time with scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from resnetv2.data.sampling import balanced_weights
from resnetv2.errors import DataError

DECADES = tuple(10.0**-step for step in range(7))  # strengths: 1 … 1e-6
_BETWEEN = (10**0.5, 10**-0.5)  # of the best decade: the strengths that are tried last
_BIAS = 1e-6  # strength on biases: a class that a fold lacks must not drive its bias to minus infinity
_ROWS = 4096  # pictures in one product, so that logits take little memory whatever their number
_HISTORY = 8  # steps that L-BFGS remembers
_MOST = 300  # steps
_ROUGH, _FINE = 2e-2, 1e-3  # gradient over value at which a fold, and the result, are done; see _minimise
_NO_SPREAD = 1e-6  # of a feature against its largest number, at which it says nothing
_RANK = 1e-8  # of the largest variance: what lies along weaker axes, no strength lets speak


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted linear model of K outputs on F features, and how it was chosen.

    Attributes:
        weight: float32 (K, F), on features as they come.
        bias: float32 (K,).
        strength: the chosen one.
        strengths: those tried, strongest first.
        losses: mean loss on held-out pictures for each of them; the chosen one has the least.
        scores: on held-out pictures for each of them: the share of right answers, or R² of a regression.
        folds: in which fold each picture was held out, int64 (N,).
        logits: answers to every picture by the model of the chosen strength that did not see it, float32 (N, K).
    """

    weight: np.ndarray
    bias: np.ndarray
    strength: float
    strengths: tuple[float, ...]
    losses: tuple[float, ...]
    scores: tuple[float, ...]
    folds: np.ndarray
    logits: np.ndarray


def fit_classes(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    groups: Sequence[str] | None = None,
    class_weights: str = "none",
    folds: int = 5,
    seed: int = 0,
) -> Probe:
    """Fit multinomial logistic regression: one of K classes for each picture.

    Args:
        features: float (views, N, F); the first view is the one that is judged, all of them are learned from.
        labels: int (N,), each in 0 … classes - 1.
        classes: K.
        groups: N names of what one fold holds whole, "" for a picture alone; see ``Index.groups``.
        class_weights: "none", or "balanced" for a loss in which every class counts the same.
        folds: of the cross-validation; fewer where there are fewer pictures or groups. Classes are spread evenly, and
            one with fewer pictures than folds is held out where it has some.
        seed: of the folds.

    Raises:
        DataError: fewer than two pictures or groups.
    """
    weights = np.ones(len(labels))
    if class_weights == "balanced":
        there, dense = np.unique(labels, return_inverse=True)
        weights = balanced_weights(dense, len(there))[dense]
    shares = np.bincount(labels, weights, classes) / weights.sum()
    targets = _Targets(torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(weights).float(), shares, np.log)
    dealt = deal_folds(labels[:, None], groups, folds, seed)
    return _choose(features, targets, _CROSS_ENTROPY, dealt)


def fit_tags(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    groups: Sequence[str] | None = None,
    class_weights: str = "none",
    folds: int = 5,
    seed: int = 0,
) -> Probe:
    """Fit a logistic regression for each of K tags, of which a picture may have any number.

    The strength is one for all tags, the loss is their sum, the score the share of right yes and no.

    Args:
        features: float (views, N, F), as in ``fit_classes``.
        labels: 0 or 1 (N, K).
        groups, folds, seed: as in ``fit_classes``; tags are spread evenly over the folds, the rarest first.
        class_weights: "none", or "balanced" for a loss in which yes and no count the same in every tag.

    Raises:
        DataError: fewer than two pictures or groups.
    """
    weights = np.ones(labels.shape)
    if class_weights == "balanced":
        yes = labels.mean(axis=0)
        weights = np.where(labels == 1, 0.5 / np.maximum(yes, 1e-12), 0.5 / np.maximum(1 - yes, 1e-12))
    shares = (weights * labels).sum(axis=0) / weights.sum(axis=0)
    targets = _Targets(
        torch.from_numpy(labels.astype(np.float32)), torch.from_numpy(weights).float(), shares, _log_odds
    )
    return _choose(features, targets, _BINARY, deal_folds(labels, groups, folds, seed, as_marks=True))


def fit_values(
    features: np.ndarray, targets: np.ndarray, *, groups: Sequence[str] | None = None, folds: int = 5, seed: int = 0
) -> Probe:
    """Fit ridge regression: one number for each picture. K is 1, losses are half the mean squared error.

    Args:
        features: float (views, N, F), as in ``fit_classes``.
        targets: float (N,), in any unit; the probe answers in it.
        groups, folds, seed: as in ``fit_classes``; each fold gets numbers of every size.

    Raises:
        DataError: fewer than two pictures or groups.
    """
    mean, spread = float(targets.mean()), float(targets.std()) or 1.0
    tenths = np.argsort(np.argsort(targets, kind="stable")) * 10 // len(targets)
    standard = torch.from_numpy((targets.astype(np.float64) - mean) / spread).float()[:, None]
    known = _Targets(standard, torch.ones(len(targets)), np.full(1, 0.5), np.zeros_like)
    probe = _choose(features, known, _SQUARES, deal_folds(tenths[:, None], groups, folds, seed))
    return Probe(
        weight=probe.weight * np.float32(spread),
        bias=(probe.bias.astype(np.float64) * spread + mean).astype(np.float32),
        strength=probe.strength,
        strengths=probe.strengths,
        losses=tuple(loss * spread**2 for loss in probe.losses),
        scores=probe.scores,
        folds=probe.folds,
        logits=(probe.logits.astype(np.float64) * spread + mean).astype(np.float32),
    )


# --- folds ------------------------------------------------------------------------------------------------------------


def deal_folds(
    labels: np.ndarray, groups: Sequence[str] | None, folds: int, seed: int, *, as_marks: bool = False
) -> np.ndarray:
    """Deal N pictures to folds so that every class is spread as evenly as groups allow; return int64 (N,).

    The largest groups go first, then the rarest classes, each to the fold that has least of its classes, and among
    equals to the smallest fold.

    Args:
        labels: int (N, 1), or with ``as_marks`` 0 or 1 (N, K).
        groups: N names of what is not parted, "" for a picture alone.
        folds: how many, or as many as there are groups and pictures alone.
        seed: of the order among equals.

    Raises:
        DataError: fewer than two groups and pictures alone.
    """
    kinds = [np.flatnonzero(row) for row in labels] if as_marks else list(labels)
    members: dict[str | int, list[int]] = {}
    for i in range(len(labels)):
        members.setdefault((groups[i] if groups is not None else "") or i, []).append(i)
    units = list(members.values())
    if len(units) < 2:
        what = f"{len(labels)} pictures of one group" if len(labels) > 1 else f"{len(labels)} picture"
        raise DataError(f"cross-validation needs two pictures, or two groups of them; there is {what}")
    folds = min(folds, len(units))
    numbers = np.concatenate(kinds).astype(np.int64)
    frequency = np.bincount(numbers, minlength=1)
    rarest = [min((int(frequency[k].min()) for k in (kinds[i] for i in unit) if len(k)), default=0) for unit in units]
    order = np.random.default_rng((seed, 3)).permutation(len(units)).tolist()
    order.sort(key=lambda u: (-len(units[u]), rarest[u]))
    held, sizes = np.zeros((folds, len(frequency))), np.zeros(folds)
    out = np.empty(len(labels), np.int64)
    for u in order:
        some = np.concatenate([kinds[i] for i in units[u]]).astype(np.int64)
        crowd = (held[:, some] / frequency[some]).sum(axis=1)
        fold = int(np.lexsort((sizes, crowd))[0])
        np.add.at(held[fold], some, 1)
        sizes[fold] += len(units[u])
        out[units[u]] = fold
    return out


# --- losses -----------------------------------------------------------------------------------------------------------


class _Targets(NamedTuple):
    """What N pictures should give, how much each counts, (N,) or (N, K), and what is known of it without pictures.

    ``shares`` (K,) are the outputs' means as probabilities, and ``link`` turns them into the biases to start from.
    """

    values: Tensor
    weights: Tensor
    shares: np.ndarray
    link: Callable[[np.ndarray], np.ndarray]

    @property
    def counts(self) -> Tensor:
        """How much each picture counts, (N,)."""
        return self.weights if self.weights.ndim == 1 else self.weights.mean(dim=1)

    def rows(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return values and weights of some pictures."""
        return self.values[places], self.weights[places]


class _Loss(NamedTuple):
    """Of logits (n, folds, K) against targets of n pictures.

    ``evaluate`` gives losses (n, folds) and their derivatives (n, folds, K), both weighted; ``curvature`` gives the
    second derivatives (n, folds, K) of logits and weights; ``score`` judges logits (n, K).
    """

    evaluate: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    curvature: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], float]


def _cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    places = labels[:, None, None].expand(-1, logits.shape[1], 1)
    log = F.log_softmax(logits, dim=2)
    losses = -log.gather(2, places)[..., 0]
    residual = log.exp_()
    residual.scatter_add_(2, places, residual.new_full(places.shape, -1.0))
    return losses * weights[:, None], residual.mul_(weights[:, None, None])


def _binary(logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    targets, weights = labels[:, None].expand_as(logits), weights[:, None]
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (losses * weights).sum(dim=2), (logits.sigmoid() - targets) * weights


def _squares(logits: Tensor, values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    residual = (logits - values[:, None]) * weights[:, None, None]
    return residual.square().sum(dim=2) / 2, residual


def _r_squared(answers: Tensor, values: Tensor) -> float:
    spread = float((values - values.mean()).square().mean())
    return 1 - float((answers - values).square().mean()) / spread if spread else 0.0


def _class_variance(logits: Tensor, weights: Tensor) -> Tensor:
    p = logits.softmax(dim=2)
    return p * (1 - p) * weights[:, None, None]


def _tag_variance(logits: Tensor, weights: Tensor) -> Tensor:
    p = logits.sigmoid()
    return p * (1 - p) * weights[:, None]


def _constant(logits: Tensor, weights: Tensor) -> Tensor:
    return weights[:, None, None].expand_as(logits)


def _log_odds(shares: np.ndarray) -> np.ndarray:
    odds: np.ndarray = np.log(shares) - np.log1p(-shares)
    return odds


_CROSS_ENTROPY = _Loss(_cross_entropy, _class_variance, lambda a, t: float((a.argmax(dim=1) == t).double().mean()))
_BINARY = _Loss(_binary, _tag_variance, lambda a, t: float(((a > 0) == (t > 0.5)).double().mean()))
_SQUARES = _Loss(_squares, _constant, _r_squared)


# --- the fit ----------------------------------------------------------------------------------------------------------


class _Basis(NamedTuple):
    """The principal axes of standardised features, (x - mean) · scale @ axes: the product of one or two factors."""

    mean: Tensor  # (F,)
    scale: Tensor  # (F,)
    factors: tuple[Tensor, ...]  # (F, r), or (F, M) and (M, r)

    def head(self, weights: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Weights (K, r + 1) on the axes -> weight (K, F) and bias (K,) on features as they come."""
        weight = weights[:, :-1].double()
        for factor in reversed(self.factors):
            weight = weight @ factor.T
        weight = weight * self.scale
        bias = weights[:, -1].double() - weight @ self.mean
        return weight.float().numpy(), bias.float().numpy()


def _standardise(features: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return (features.double() - mean) * scale


def _rotate(features: Tensor) -> tuple[Tensor, _Basis]:
    """Return features (M, F) along their principal axes, float32 (M, r + 1) with a last column of ones, and the axes.

    The axes are found in float64, but for the products of many pictures. Where pictures are fewer than features, the
    products of pictures with each other tell all, and the axes themselves are never needed.
    """
    rows, count = features.shape
    parts = [features[low : low + _ROWS] for low in range(0, rows, _ROWS)]
    mean = torch.stack([part.double().sum(dim=0) for part in parts]).sum(dim=0) / rows
    variance = torch.stack([(part.double() - mean).square().sum(dim=0) for part in parts]).sum(dim=0) / rows
    largest = torch.stack([part.abs().amax(dim=0) for part in parts]).amax(dim=0).double()
    spread = variance.sqrt()
    tells = spread > _NO_SPREAD * largest
    scale = torch.where(tells, 1 / (spread * count**0.5), torch.zeros_like(spread))
    if rows < count:
        standard = _standardise(features, mean, scale)
        lengths, vectors = _squared_lengths(standard @ standard.T)
        x = torch.ones(rows, len(lengths) + 1)
        x[:, :-1] = vectors * lengths.sqrt()
        factors: tuple[Tensor, ...] = (standard.T, vectors / lengths.sqrt())
    else:
        gram = torch.zeros(count, count, dtype=torch.float64)
        for part in parts:
            standard = _standardise(part, mean, scale).float()
            gram += standard.T @ standard
        _, axes = _squared_lengths(gram)
        x = torch.ones(rows, axes.shape[1] + 1)
        for low, part in zip(range(0, rows, _ROWS), parts, strict=True):
            x[low : low + _ROWS, :-1] = _standardise(part, mean, scale).float() @ axes.float()
        factors = (axes,)
    return x, _Basis(mean, scale, factors)


def _squared_lengths(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (r,) and vectors (n, r) of a Gram matrix (n, n): those that say something."""
    values, vectors = torch.linalg.eigh(gram)
    keep = values > _RANK * values[-1].clamp_min(1e-30)
    return values[keep], vectors[:, keep]


class _Problem:
    """The penalised mean losses of several linear models at once, each on its own pictures.

    Args:
        x: features (M, r + 1), the last one 1.
        targets: of N pictures; row m is a view of picture m % N.
        loss: of logits and targets.
        shares: how much of each model's mean a picture is, (N, models).
        strength: of the penalty.
        start: weights (models, K, r + 1) near the least value, where the curvature along the axes is measured.
    """

    def __init__(
        self, x: Tensor, targets: _Targets, loss: _Loss, shares: Tensor, strength: float, start: Tensor
    ) -> None:
        self.x, self.targets, self.loss = x, targets, loss
        self.shares = shares * (len(shares) / len(x))  # each view of a picture counts for its part
        self.penalty = torch.full(x.shape[1:], strength)
        self.penalty[-1] = _BIAS
        self.unit = (self._curvature(start) + self.penalty).rsqrt()  # (models, K, r + 1), of the coordinates

    def _curvature(self, weights: Tensor) -> Tensor:
        """Return the mean loss's second derivative along each coordinate, (models, K, r + 1)."""
        out = torch.zeros_like(weights)
        for low in range(0, len(self.x), _ROWS):
            x = self.x[low : low + _ROWS]
            places = torch.arange(low, low + len(x)) % len(self.shares)
            logits = F.linear(x, weights.flatten(0, 1)).view(len(x), *weights.shape[:2])
            second = self.loss.curvature(logits, self.targets.weights[places]) * self.shares[places][:, :, None]
            out += (second.flatten(1).T @ x.square()).view_as(out)
        return out

    def __call__(self, scaled: Tensor) -> tuple[Tensor, Tensor]:
        """Weights in units (models, K, r + 1) -> values float64 (models,) and gradients."""
        weights = scaled * self.unit
        models, outputs, width = weights.shape
        flat = weights.view(models * outputs, width)
        values = (weights.square() * self.penalty).sum(dim=(1, 2), dtype=torch.float64) / 2
        gradient = torch.zeros_like(flat)
        for low in range(0, len(self.x), _ROWS):
            x = self.x[low : low + _ROWS]
            places = torch.arange(low, low + len(x)) % len(self.shares)
            shares = self.shares[places]
            logits = F.linear(x, flat).view(-1, models, outputs)
            losses, residual = self.loss.evaluate(logits, *self.targets.rows(places))
            values += (losses * shares).sum(dim=0, dtype=torch.float64)
            gradient.addmm_(residual.mul_(shares[:, :, None]).view(len(x), -1).T, x)
        return values, (gradient.view_as(weights) + self.penalty * weights) * self.unit


def _minimise(problem: _Problem, weights: Tensor, tolerance: float) -> Tensor:
    """Return the weights (models, K, r + 1) of least value, by L-BFGS with backtracking, each model on its own.

    A model is done when its gradient is at most ``tolerance`` times its value. As curvature is about 1 in the problem's
    units, what remains is then about tolerance² / 2 of the value.
    """
    point = weights / problem.unit
    value, gradient = problem(point)
    history: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(_MOST):
        if bool((_dot(gradient, gradient).sqrt() <= tolerance * value.clamp(max=1)).all()):
            break
        direction = _direction(gradient, history)
        slope, step = _dot(gradient, direction), torch.ones(len(value))
        while True:
            moved = point + step[:, None, None] * direction
            new_value, new_gradient = problem(moved)
            too_far = new_value > value + 1e-4 * step * slope
            if not bool((too_far & (step > 1e-3)).any()):
                break
            step = torch.where(too_far, step / 2, step)
        if bool(too_far.all()):  # no step helps: rounding is all that is left
            break
        stays = too_far[:, None, None]
        moved, new_gradient = torch.where(stays, point, moved), torch.where(stays, gradient, new_gradient)
        change, turn = moved - point, new_gradient - gradient
        product = _dot(change, turn)
        inverse = torch.where(product > 0, 1 / product, torch.zeros_like(product))
        history = [*history, (change, turn, inverse)][-_HISTORY:]
        point, gradient, value = moved, new_gradient, torch.where(too_far, value, new_value)
    return point * problem.unit


def _direction(gradient: Tensor, history: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Return minus the gradient times the inverse Hessian that the history tells of: L-BFGS's two loops."""
    direction, shares = -gradient, []
    for change, turn, inverse in reversed(history):
        share = inverse * _dot(change, direction)
        direction = torch.addcmul(direction, share[:, None, None], turn, value=-1)
        shares.append(share)
    if history:
        _, turn, inverse = history[-1]
        length = _dot(turn, turn) * inverse
        direction = direction / torch.where(length > 0, length, torch.ones_like(length))[:, None, None]
    for (change, turn, inverse), share in zip(history, reversed(shares), strict=True):
        direction = torch.addcmul(direction, (share - inverse * _dot(turn, direction))[:, None, None], change)
    return direction


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a.flatten(1)[:, None], b.flatten(1)[:, :, None])[:, 0, 0]


class _Trial(NamedTuple):
    """What cross-validation found of one strength."""

    loss: float
    score: float
    strength: float
    weights: Tensor  # (folds, K, r + 1)
    logits: Tensor  # (N, K)


def _choose(features: np.ndarray, targets: _Targets, loss: _Loss, folds: np.ndarray) -> Probe:
    """Cross-validate strengths, and fit the best one on everything."""
    flat = torch.from_numpy(np.ascontiguousarray(features)).flatten(0, 1)
    x, basis = _rotate(flat)
    trials, best = _search(x, targets, loss, torch.from_numpy(folds))
    shares = torch.full((len(folds), 1), 1 / float(targets.counts.sum()))
    start = best.weights.mean(dim=0, keepdim=True)
    problem = _Problem(x, targets, loss, shares, best.strength, start)
    weight, bias = basis.head(_minimise(problem, start, _FINE)[0])
    return Probe(
        weight=weight,
        bias=bias,
        strength=best.strength,
        strengths=tuple(trial[2] for trial in trials),
        losses=tuple(trial[0] for trial in trials),
        scores=tuple(trial[1] for trial in trials),
        folds=folds,
        logits=best.logits.numpy(),
    )


def _search(x: Tensor, targets: _Targets, loss: _Loss, fold: Tensor) -> tuple[list[tuple[float, float, float]], _Trial]:
    """Try decades of strength from the strongest on until held-out losses rise, then both sides of the best one.

    Returns loss, score and strength of each, strongest first, and all of the best.
    """
    number = int(fold.max()) + 1
    seen = (fold[:, None] != torch.arange(number)).float()
    counts = targets.counts
    shares = seen / (seen * counts[:, None]).sum(dim=0)
    judged = _judged(targets, fold, number)

    def attempt(strength: float, starts: Sequence[Tensor]) -> _Trial:
        start = _nearest(x, targets, loss, shares, strength, starts)
        weights = _minimise(_Problem(x, targets, loss, shares, strength, start), start, _ROUGH)
        logits = _held_out(x[: len(fold)], fold, weights)
        held = loss.evaluate(logits[:, None], *targets.rows(torch.arange(len(fold))))[0][:, 0]
        value = float((held * judged).sum(dtype=torch.float64) / (counts * judged).sum(dtype=torch.float64))
        return _Trial(value, loss.score(logits, targets.values), strength, weights, logits)

    weights = torch.zeros(number, len(targets.shares), x.shape[1])
    weights[:, :, -1] = torch.from_numpy(targets.link(targets.shares.clip(1e-6, 1 - 1e-6)))
    best, before = attempt(DECADES[0], [weights]), weights
    trials, weaker = [best[:3]], None
    for strength in DECADES[1:]:
        trial = attempt(strength, [best.weights, torch.lerp(before, best.weights, 2)])
        trials.append(trial[:3])
        if trial.loss >= best.loss:
            weaker = trial.weights
            break
        best, before = trial, best.weights
    after = torch.lerp(before, best.weights, 2) if weaker is None else weaker
    decade = best
    for strength, other in zip([decade.strength * times for times in _BETWEEN], (before, after), strict=True):
        trial = attempt(strength, [decade.weights, torch.lerp(decade.weights, other, 0.5)])
        trials.append(trial[:3])
        best = min(trial, best, key=lambda one: (one.loss, -one.strength))
    return sorted(trials, key=lambda one: -one[2]), best


def _nearest(
    x: Tensor, targets: _Targets, loss: _Loss, shares: Tensor, strength: float, starts: Sequence[Tensor]
) -> Tensor:
    """Return of several starts (models, K, r + 1) the one of least value, for each model by itself."""
    if len(starts) == 1:
        return starts[0]
    problem = _Problem(x, targets, loss, shares, strength, starts[0])
    values = torch.stack([problem(start / problem.unit)[0] for start in starts])
    least: Tensor = torch.stack(list(starts))[values.argmin(dim=0), torch.arange(shares.shape[1])]
    return least


def _held_out(x: Tensor, fold: Tensor, weights: Tensor) -> Tensor:
    """Return the answers (N, K) to each picture by the model that did not see its fold."""
    logits = torch.empty(len(x), weights.shape[1])
    for number, model in enumerate(weights):
        places = torch.nonzero(fold == number)[:, 0]
        logits[places] = F.linear(x[places], model)
    return logits


def _judged(targets: _Targets, fold: Tensor, number: int) -> Tensor:
    """Return 1 for each picture whose loss counts, (N,): 0 where the model that did not see it never saw its class."""
    if targets.values.is_floating_point():
        return torch.ones(len(fold))
    held = torch.zeros(number, len(targets.shares), dtype=torch.int64)
    held.index_put_((fold, targets.values), torch.ones_like(fold), accumulate=True)
    seen = (held.sum(dim=0) - held)[fold, targets.values] > 0
    return (seen if bool(seen.any()) else torch.ones_like(seen)).float()
