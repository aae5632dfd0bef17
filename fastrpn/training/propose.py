"""The proposals of a data set, made by several processes."""

from __future__ import annotations

from functools import partial

from rich.progress import track
from torch.utils.data import Dataset, Subset

from fastrpn import distributed
from fastrpn.analysis import propose_dataset
from fastrpn.data import ProposalSet
from fastrpn.models import FasterRCNN

__all__ = ["propose_together"]


def propose_together(
    dataset: Dataset,
    method: str,
    model: FasterRCNN | None = None,
    *,
    limit: int = 2000,
    workers: int = 0,
    progress: bool = True,
) -> tuple[ProposalSet | None, float]:
    """What `propose_dataset` returns; under torchrun each process takes its share of the images.

    Returns:
        In the main process the proposals of all images, in their order; in the others None. And the
        seconds an image took on average.
    """
    rank, size = distributed.rank(), distributed.size()
    found = propose_dataset(
        Subset(dataset, range(rank, len(dataset), size)),
        method,
        model,
        limit=limit,
        workers=workers,
        track=partial(track, description="Proposing", disable=not progress or rank > 0),
    )
    shares = distributed.gather(found)
    if shares is None:
        return None, found[1]
    if sum(len(proposals) for proposals, _ in shares) < len(dataset):
        raise ValueError("dataset: several images have the same image_id")
    images = [list(proposals) for proposals, _ in shares]
    order = [images[i % size][i // size] for i in range(len(dataset))]
    together = {image_id: shares[i % size][0][image_id] for i, image_id in enumerate(order)}
    seconds = sum(seconds * len(proposals) for proposals, seconds in shares)
    return ProposalSet.collect(method, together), seconds / max(1, len(dataset))
