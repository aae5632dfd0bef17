"""Training whose loss is a plain mean over images, so that shares of a batch can be compared with
the whole: every anchor and every region is sampled, batch norm keeps its statistics, no flips.

Run under torchrun, it trains on a data set and leaves what test_distributed.py compares.
"""

import dataclasses
import json
import sys
from pathlib import Path

import torch
from torch import nn

from fastrpn import distributed
from fastrpn.data import open_dataset
from fastrpn.evaluation import detect_all
from fastrpn.training import TrainConfig, Trainer, train

OPTIONS = {
    "min_size": 64,
    "max_size": 64,
    "rpn_batch_size": 8 * 8 * 12,  # all anchors
    "rpn_positive_fraction": 1.0,
    "rpn_normalizer": "paper",
    "rpn_post_nms_top_n_train": 40,
    "box_batch_size": 40,  # all regions
    "box_positive_fraction": 1.0,
    "box_append_gt": False,
}


class FixedNorms(nn.Module):
    """The model's losses; batch norm does not look at the batch."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def train(self, mode=True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def forward(self, images, targets):
        return self.model(images, targets)


def make_config(data, output, **changes):
    config = TrainConfig(
        data=str(data),
        output=str(output),
        model_options=OPTIONS,
        batch_size=4,
        steps=4,
        lr_steps=(),
        warmup_steps=2,
        log_every=2,
        pictures=0,
        flip=0.0,
        progress=False,
    )
    return dataclasses.replace(config, **changes)


def make_trainer(config):
    dataset = open_dataset(config.data, config.train_set)
    validation = config.val_set and open_dataset(config.data, config.val_set, dataset.classes)
    return Trainer(config, dataset, validation, FixedNorms)


def gradient(trainer):
    """The gradient that the first step hands to the optimizer, all parameters in a row."""
    found = []
    parameters = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    update = trainer.optimizer.step
    trainer.optimizer.step = lambda: found.append(torch.cat([p.grad.flatten() for p in parameters]))
    trainer.objective.train()
    trainer.update(next(trainer.batches()))
    trainer.optimizer.step = update
    return found[0]


def note_images(trainer):
    """The image ids of each step that the trainer is going to take."""
    steps, take_step = [], trainer._take_step

    def noting(parts):
        steps.append([target["image_id"] for _, targets in parts for target in targets])
        take_step(parts)

    trainer._take_step = noting
    return steps


def main(data, output):
    with distributed.process_group():
        gradients = [
            gradient(make_trainer(make_config(data, output, accumulate=parts))) for parts in (1, 2)
        ]
        torch.save(gradients, Path(output) / f"gradients{distributed.rank()}.pt")
        trainer = make_trainer(make_config(data, output))
        steps = note_images(trainer)
        result = trainer.run()
        _, targets = detect_all(result.model, trainer.validation, batch_size=2, progress=False)
        seen = {"steps": steps, "metrics": result.metrics}
        seen["evaluated"] = [target["image_id"] for target in targets]
        Path(output, f"seen{distributed.rank()}.json").write_text(json.dumps(seen))
        train(make_config(data, f"{output}/alternating", schedule="alternating", steps=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
