"""Mining strategies: a ranking -> the window of ranks that holds a query's hard negatives.

A strategy is a function with the decorator `@strategy("name")`. Parameters of its own are
keyword-only arguments with defaults, which `MiningConfig.options` sets.
"""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from .config import MiningConfig
from .drops import find_steepest_drops
from .ranking import Ranking

Window = tuple[Tensor, Tensor]  # (q,) first rank in the set, (q,) first rank after it
STRATEGIES: dict[str, Callable[..., Window]] = {}


def strategy(name: str) -> Callable[[Callable[..., Window]], Callable[..., Window]]:
    """Register a function as the mining strategy `name`.

    The function takes a Ranking of q queries, (q,) target ranks and the MiningConfig, and returns
    the window. Mining leaves the target out of the window; a query whose window is empty draws its
    negatives uniformly from the corpus.
    """

    def register(function: Callable[..., Window]) -> Callable[..., Window]:
        STRATEGIES[name] = function
        return function

    return register


def check_strategy(config: MiningConfig) -> None:
    """Refuse an unknown strategy, and options that are not its own parameters.

    Raises:
        ValueError: the message names what is known.
    """
    name = config.strategy
    if name not in STRATEGIES:
        raise ValueError(f"strategy must be one of {sorted(STRATEGIES)}, not {name!r}")
    parameters = inspect.signature(STRATEGIES[name]).parameters.values()
    known = sorted(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
    if unknown := sorted(dict(config.options).keys() - set(known)):
        raise ValueError(f"strategy {name!r} has no option {unknown[0]!r}; it has {known}")


@strategy("all_corpus")
def all_corpus(ranking: Ranking, target_ranks: Tensor, config: MiningConfig) -> Window:
    """No window: negatives are drawn uniformly from the whole corpus without the target."""
    return torch.zeros_like(target_ranks), torch.zeros_like(target_ranks)


@strategy("top_k")
def top_k(ranking: Ranking, target_ranks: Tensor, config: MiningConfig) -> Window:
    """The k best-ranked images without the target."""
    start = torch.zeros_like(target_ranks)
    return start, start + config.top_k


@strategy("after_target_top_k")
def after_target_top_k(ranking: Ranking, target_ranks: Tensor, config: MiningConfig) -> Window:
    """The k best-ranked images among those that score below the target."""
    start = first_rank_below_target(ranking, target_ranks)
    return start, start + config.top_k


@strategy("between_drops")
def between_drops(ranking: Ranking, target_ranks: Tensor, config: MiningConfig) -> Window:
    """QuRe's hard negatives: the images between two steep drops after the target (Eq. 5-7)."""
    drops = find_steepest_drops(
        ranking.scores,
        target_ranks,
        config.drop_rule,
        config.consecutive_threshold,
        config.search_window,
        config.curve,
        config.temperature,
    )
    return drops.first + 1, drops.second + 1


@strategy("before_first_drop")
def before_first_drop(ranking: Ranking, target_ranks: Tensor, config: MiningConfig) -> Window:
    """Auxiliary positives: the images after the target, up to the first drop."""
    window, _ = between_drops(ranking, target_ranks, config)
    return first_rank_below_target(ranking, target_ranks), window


def first_rank_below_target(ranking: Ranking, target_ranks: Tensor) -> Tensor:
    """(Q,) first rank that scores strictly below the target; N where none does."""
    return (ranking.scores >= ranking.scores.gather(1, target_ranks[:, None])).sum(dim=1)
