"""A training from its settings alone: which data, which parts of the model, in which order.

The paper's 4-step alternating training (section 3.2, "Sharing features for RPN and Fast R-CNN"):

1. Train the RPN from the initial backbone.
2. Train Fast R-CNN on the RPN's proposals, from the initial backbone again: nothing is shared yet.
3. Train a new RPN on the backbone of step 2, which is frozen from now on.
4. Go on training the Fast R-CNN layers on the new proposals.

Each step starts from the whole model of the step before, except for step 2, which starts anew. So
the last model has the backbone of step 2, the RPN of step 3 and the detection head of step 4.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from fastrpn import distributed
from fastrpn.data import ProposalSet, Tiles, WithProposals, split_dataset
from fastrpn.data.dataset import AnnotatedImages
from fastrpn.errors import BadDataPolicy
from fastrpn.files import UNFINISHED
from fastrpn.inference.propose import propose_dataset
from fastrpn.models.checkpoint import clear_folder, load_checkpoint, save_checkpoint
from fastrpn.training.config import STAGES, TrainConfig
from fastrpn.training.log import write_config_file
from fastrpn.training.loop import Trainer, TrainResult
from fastrpn.training.objectives import fast_rcnn_objective, rpn_objective

__all__ = ["train", "train_alternating"]


def train(config: TrainConfig) -> TrainResult:
    """Trains on annotated images.

    Writes into ``config.output``: ``config.yaml`` (settings, versions, commit), ``last.pt``,
    ``previous.pt`` (the last one before) and ``best.pt``, ``history.jsonl`` (a line a step),
    ``evaluations.jsonl``, ``pictures/``, and ``bad-data.txt`` if something of the data was left
    out.

    Equal configurations on equal data give equal weights, bit for bit on the CPU, whether or not
    the run was killed and resumed. Under torchrun the processes share the work.

    Raises:
        BadDataError: a file of the data set is unusable.
        ValueError: no data or output, a former run in the output folder, or the checkpoint to
            resume from belongs to another model or was trained with other settings.
        NonFiniteLossError: a loss became infinite or NaN; its batch is kept, see
            :func:`fastrpn.training.replay`.
        KeyboardInterrupt, SystemExit: Ctrl-C, SIGTERM. A checkpoint of the newest step is there.
    """
    config.require_folders()
    config.require_output()
    dataset = config.open(config.data, config.train_set, config.classes)
    validation = None
    if config.val_fraction is not None:
        dataset, validation = split_dataset(dataset, config.val_fraction, config.seed)
    elif config.val_set is not None:
        validation = config.open(config.data, config.val_set, dataset.classes)
    with distributed.process_group(config.device):
        _report(config, dataset, validation)
        if config.proposals is not None:
            return _train_fast_rcnn(config, dataset, validation)
        if config.schedule == "alternating":
            return train_alternating(config, dataset, validation)
        if config.tile is not None:
            of_tiles = partial(Tiles, tile=config.tile, overlap=config.overlap)
            return Trainer(config, of_tiles(dataset), validation and of_tiles(validation)).run()
        return Trainer(config, dataset, validation).run()


def _report(
    config: TrainConfig, dataset: AnnotatedImages, validation: AnnotatedImages | None
) -> None:
    """Lists what was left out of the data, if anything was."""
    parts = [part.bad for part in (dataset, validation) if part is not None]
    bad = BadDataPolicy.together(list(dict.fromkeys(parts)))
    if bad.faults and distributed.is_main():
        bad.write(Path(config.output) / "bad-data.txt")


def _train_fast_rcnn(
    config: TrainConfig, dataset: AnnotatedImages, validation: AnnotatedImages | None
) -> TrainResult:
    """Fast R-CNN alone, on proposals from files."""
    dataset = WithProposals(dataset, ProposalSet.load(config.proposals or ""))
    if validation is not None and config.val_proposals is not None:
        validation = WithProposals(validation, ProposalSet.load(config.val_proposals))
    else:
        validation = None
    return Trainer(config, dataset, validation, fast_rcnn_objective(config, dataset)).run()


def train_alternating(
    config: TrainConfig, dataset: AnnotatedImages, validation: AnnotatedImages | None = None
) -> TrainResult:
    """Trains in four steps, each a run of :class:`Trainer` in a folder of its own.

    ``config.output`` gets ``1-rpn/``, ``2-fast-rcnn/``, ``3-rpn/`` and ``4-fast-rcnn/``, the
    proposals ``1-rpn/proposals.npz`` and ``3-rpn/proposals.npz``, and in the end ``last.pt``, an
    ordinary checkpoint of the detector. With ``config.resume`` a finished step and its proposals
    are used as they are, and an interrupted one continues.

    Args:
        config: the settings; ``rpn_stage`` replaces some in steps 1 and 3, ``box_stage`` does in
            steps 2 and 4.
        dataset: the training images.
        validation: evaluated in step 4; the detector is complete only then.

    Returns:
        the result of step 4; its history has the entries of all steps with their "stage", 1 to 4.
    """
    output = Path(config.output)
    if config.rehearsal and not (config.resume and (output / "last.pt").exists()):
        _rehearse(config, dataset, validation)
    if distributed.is_main():
        for folder in (output, *(output / stage for stage in STAGES)):
            clear_folder(folder, is_new_run=not config.resume)
    distributed.barrier()
    rpn, box = config.rpn_stage, config.box_stage
    configs = [
        _stage_config(config, settings, name)
        for name, settings in zip(STAGES, (rpn, box, rpn, box), strict=True)
    ]
    proposals, result1 = _train_and_propose(configs[0], dataset)
    data = WithProposals(dataset, proposals)
    result2 = Trainer(configs[1], data, objective=fast_rcnn_objective(configs[1], data)).run()

    start = result2.model.state_dict()
    proposals, result3 = _train_and_propose(configs[2], dataset, start)
    data = WithProposals(dataset, proposals)
    objective = fast_rcnn_objective(configs[3], data, result3.model.state_dict())
    result4 = Trainer(configs[3], data, validation, objective).run()

    if distributed.is_main():
        write_config_file(output / "config.yaml", config)
        for file in ("last.pt", "best.pt"):
            if (output / STAGES[3] / file).exists():
                content = load_checkpoint(output / STAGES[3] / file)
                save_checkpoint(output / file, {**content, "config": config.as_dict()})
    distributed.barrier()
    history = [
        {"stage": stage, **entry}
        for stage, result in enumerate((result1, result2, result3, result4), start=1)
        for entry in result.history
    ]
    return replace(result4, checkpoint=output / "last.pt", history=history)


def _stage_config(config: TrainConfig, settings: dict[str, Any], name: str) -> TrainConfig:
    model_options = {**config.model_options, **settings.get("model_options", {})}
    settings = {**settings, "model_options": model_options, "output": f"{config.output}/{name}"}
    return TrainConfig(**{**config.as_dict(), **settings})


def _rehearse(
    config: TrainConfig, dataset: AnnotatedImages, validation: AnnotatedImages | None
) -> None:
    """Takes a few images through all four steps, one update each, in a folder that goes again: what
    is broken in the last step fails at once, not after days."""
    stages = config.rpn_stage, config.box_stage
    of_step = [_stage_config(config, settings, "") for settings in stages]
    count = max(step.batch_size * step.accumulate for step in of_step)
    folder = Path(config.output) / f"{UNFINISHED}rehearsal"
    short = replace(
        config,
        output=str(folder),
        rpn_stage={**config.rpn_stage, "steps": 1},
        box_stage={**config.box_stage, "steps": 1},
        rehearsal=False,
        resume=False,
        overwrite=True,
        progress=False,
    )
    try:
        few_validation = validation and _first(validation, count)
        train_alternating(short, _first(dataset, count), few_validation)
    finally:
        if distributed.is_main():
            shutil.rmtree(folder, ignore_errors=True)


def _first(dataset: AnnotatedImages, count: int) -> AnnotatedImages:
    return dataset.subset(range(min(count, len(dataset))))


def _train_and_propose(
    config: TrainConfig, dataset: AnnotatedImages, start: Mapping[str, Tensor] | None = None
) -> tuple[ProposalSet, TrainResult]:
    """Trains an RPN and lets it propose for the training set, unless it did so before."""
    trainer = Trainer(config, dataset, objective=rpn_objective(start))
    path = trainer.output / "proposals.npz"
    if distributed.is_main() and trainer.step < trainer.total:
        path.unlink(missing_ok=True)  # another run's, or of an RPN that had trained for less
    result = trainer.run()
    if not distributed.broadcast(path.exists()):
        model = result.model.eval()
        proposals, _ = propose_dataset(
            dataset,
            "rpn",
            model,
            limit=model.config.rpn_post_nms_top_n_train,
            workers=config.workers,
            progress=config.progress,
        )
        if proposals is not None:
            proposals.save(path)
    distributed.barrier()
    return ProposalSet.load(path), result
