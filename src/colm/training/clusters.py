"""Sources for data that has none: clusters of examples that the model sees alike.

Before training, the model reads every training example once, without gradients; k-means on the
means of its last hidden states puts the examples into clusters, which then serve as sources.
The selector's state in a checkpoint holds them, for a resumed run starts from other weights, which
would cluster otherwise. Paper: CoLM v3, for data whose sources are unknown.  Symbols: N examples in
the data set, e hidden size, k clusters.
"""

import logging
import warnings
from pathlib import Path

import torch
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from torch import Tensor

from colm.coreset.coreset_selector import ONE_SOURCE
from colm.training.checkpoints.selector_state import SELECTOR_FILE
from colm.training.options.selection_arguments import SelectionArguments
from colm.training.processes.candidate_table import tabulate
from colm.training.processes.exchange import Exchange
from colm.training.step.look import CandidateObserver, ModelAccess

#: Column that names the cluster of an example.
CLUSTER_COLUMN = "colm_cluster"
#: What they are called in the selector's state.
STATE_KEY = "clusters"

_BLOCK_EXAMPLES = 4096
_STARTS = 10

logger = logging.getLogger(__name__)


def cluster_names(number: int) -> list[str]:
    """Return the names of k clusters, the largest first.

    Example:
        >>> cluster_names(2)
        ['cluster 0', 'cluster 1']
    """
    return [f"cluster {index}" for index in range(number)]


def find_clusters(
    dataset: Dataset, args: SelectionArguments, access: ModelAccess, group: Exchange, seed: int
) -> Tensor:
    """Cluster a tokenised data set; every process of the group reads its part and learns of all.

    Costs one forward of N examples, and memory for N x e float32.

    Args:
        dataset: with the columns that the collator takes and no others.
        args: the options, ``source_clusters`` among them.
        access: the model, the collator and where they live.
        group: all processes.
        seed: of k-means.

    Returns:
        ``[N]`` int64 number of each example's cluster, 0 for the largest.

    Raises:
        ValueError: there are fewer different examples than clusters, or hidden states are not
            finite.
    """
    number = int(args.source_clusters or 0)
    logger.info("finding %d clusters among %d training examples", number, len(dataset))
    hidden = mean_hidden_states(dataset, args, access, group)
    clusters = torch.empty(0, dtype=torch.int64)
    if group.process_index == 0:
        clusters = k_means(hidden, number, seed)
    # Rounding may differ between machines: all take what the first process found.
    clusters = group.rows(clusters)
    sizes = clusters.bincount().tolist()
    for name, size in zip(cluster_names(number), sizes, strict=True):
        logger.info("%s: %d examples", name, size)
    return clusters


def mean_hidden_states(
    dataset: Dataset, args: SelectionArguments, access: ModelAccess, group: Exchange
) -> Tensor:
    """Return the mean last hidden state of each example, ``[N, e]`` float32 on the CPU."""
    observer = CandidateObserver(args, access, ("hidden",), seed=0, exchange=group)
    processes = range(group.num_processes)
    blocks = []
    for start in range(0, len(dataset), _BLOCK_EXAMPLES):
        rows = torch.arange(start, min(start + _BLOCK_EXAMPLES, len(dataset)))
        shares = [rows[process :: group.num_processes] for process in processes]
        own = [dataset[row] for row in shares[group.process_index].tolist()]
        table = tabulate(own, [ONE_SOURCE] * len(own), group)
        hidden = observer.look(own, table, torch.arange(len(table)), step=0).observed.hidden
        assert hidden is not None
        # The rows come process by process.
        blocks.append(hidden.float().cpu()[torch.cat(shares).argsort()])
    return torch.cat(blocks)


def k_means(points: Tensor, number: int, seed: int) -> Tensor:
    """Cluster points by k-means (Lloyd's algorithm, the best of a few k-means++ starts).

    The same points and seed give the same clusters: one thread adds up in one order.

    Args:
        points: ``[N, e]`` float32, finite.
        number: k.
        seed: of the starts.

    Returns:
        ``[N]`` int64 cluster of each point, numbered by size, the largest first; of equal ones, the
        one with the first point.

    Raises:
        ValueError: a point is not finite, or fewer than k points differ.

    Example:
        >>> k_means(torch.tensor([[0.0], [9.0], [9.1], [8.9]]), 2, seed=0)
        tensor([1, 0, 0, 0])
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    if not torch.isfinite(points).all():
        raise ValueError("source_clusters: the model has hidden states that are not finite.")
    if number > len(points):
        raise ValueError(f"source_clusters={number} is more than there are examples: {len(points)}")
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # too few different points: see below
        means = KMeans(number, n_init=_STARTS, random_state=seed).fit(points.numpy())
    labels = torch.from_numpy(means.labels_).long()
    sizes = labels.bincount(minlength=number).tolist()
    if 0 in sizes:
        raise ValueError(
            f"source_clusters={number} is more than there are different examples: "
            f"{number - sizes.count(0)}."
        )
    firsts = [int((labels == label).nonzero()[0]) for label in range(number)]
    order = sorted(range(number), key=lambda label: (-sizes[label], firsts[label]))
    return torch.tensor(order).argsort()[labels]


def with_clusters(dataset: Dataset, clusters: Tensor) -> Dataset:
    """Return the data set with the name of each example's cluster in ``CLUSTER_COLUMN``."""
    names = cluster_names(int(clusters.max()) + 1)
    if CLUSTER_COLUMN in dataset.column_names:
        dataset = dataset.remove_columns(CLUSTER_COLUMN)
    return dataset.add_column(CLUSTER_COLUMN, [names[index] for index in clusters.tolist()])


def load_clusters(folder: str | Path, examples: int) -> Tensor:
    """Read the clusters of a checkpoint.

    Args:
        folder: the checkpoint.
        examples: N, of the run that resumes.

    Returns:
        ``[N]`` int64.

    Raises:
        ValueError: there are none that can be read, or not as many as examples.
    """
    path = Path(folder) / SELECTOR_FILE
    try:
        with safe_open(path, framework="pt") as file:
            clusters: Tensor = file.get_tensor(STATE_KEY)
    except (FileNotFoundError, SafetensorError) as error:
        raise ValueError(f"{path} has no clusters: its run had no source_clusters.") from error
    if len(clusters) != examples:
        raise ValueError(
            f"{path} has the clusters of {len(clusters)} training examples, but there are "
            f"{examples}: resume with the same data, or start a new run."
        )
    return clusters
