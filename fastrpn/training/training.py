"""A training from its settings alone: which data, which parts of the model, in which order."""

from __future__ import annotations

from fastrpn import distributed
from fastrpn.data import ProposalSet, WithProposals, open_dataset
from fastrpn.training.alternating import train_alternating
from fastrpn.training.config import TrainConfig
from fastrpn.training.objectives import fast_rcnn_objective
from fastrpn.training.trainer import Trainer, TrainResult

__all__ = ["train"]


def train(config: TrainConfig) -> TrainResult:
    """Trains on annotated images.

    Writes into ``config.output``: ``config.yaml`` (settings, versions, commit), ``last.pt`` and
    ``best.pt``, ``history.jsonl`` (a line a step), ``evaluations.jsonl`` and ``pictures/``.

    Equal configurations on equal data give equal weights, bit for bit on the CPU, whether or not
    the run was killed and resumed. Under torchrun the processes share the work.

    Raises:
        BadDataError: a file of the data set is unusable.
        ValueError: the checkpoint to resume from belongs to another model.
        NonFiniteLossError: a loss became infinite or NaN.
    """
    dataset = open_dataset(config.data, config.train_set, config.classes, config.on_bad_data)
    validation = None
    if config.val_set is not None:
        validation = open_dataset(config.data, config.val_set, dataset.classes, config.on_bad_data)
    objective = None
    if config.proposals is not None:
        dataset = WithProposals(dataset, ProposalSet.load(config.proposals))
        objective = fast_rcnn_objective(config, dataset)
        if config.val_proposals is None:
            validation = None
        if validation is not None:
            validation = WithProposals(validation, ProposalSet.load(config.val_proposals))
    with distributed.process_group(config.device):
        if config.schedule == "alternating" and objective is None:
            return train_alternating(config, dataset, validation)
        return Trainer(config, dataset, validation, objective).run()
