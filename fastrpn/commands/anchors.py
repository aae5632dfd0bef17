"""Judge anchors: what a model sees of them, which suit your data, or just draw the paper's nine.

--model NAME      the receptive field of a model's positions, and which anchors it does not cover
--data FOLDER     anchors by k-means on a data set, beside the model's own (default: vgg16's)
neither           the anchors of --sizes and --ratios at --position
"""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--output", type=Path, default=Path("anchors.png"), help="the picture")
    parser.add_argument("--model", help="a name of fastrpn.models.faster_rcnn")

    field = parser.add_argument_group("with --model")
    field.add_argument(
        "--gradient",
        action="store_true",
        help="measure the fields by gradient, too (seconds for vgg16, minutes for a pyramid)",
    )

    design = parser.add_argument_group("with --data")
    design.add_argument("--data", type=Path, help="folder in VOC or COCO layout")
    design.add_argument("--train-set", nargs="+", default=["train"], help="to design on")
    design.add_argument("--val-set", nargs="+", help="to count recall on; default: the same")
    design.add_argument("--number", type=int, help="anchors to design; default: the model's number")
    design.add_argument("--on-bad-data", choices=["stop", "skip"], default="stop")

    drawn = parser.add_argument_group("with neither")
    drawn.add_argument("--image-size", type=int, nargs=2, default=(600, 800), metavar=("H", "W"))
    drawn.add_argument("--position", type=float, nargs=2, default=(320, 320), metavar=("X", "Y"))
    drawn.add_argument("--sizes", type=float, nargs="+", default=(128, 256, 512))
    drawn.add_argument("--ratios", type=float, nargs="+", default=(0.5, 1, 2), help="height/width")


def run(options: argparse.Namespace) -> None:
    if options.data:
        _design(options)
    elif options.model:
        _receptive_field(options)
    else:
        _draw(options)


def _design(options: argparse.Namespace) -> None:
    """Anchors by k-means, and recall against their number."""
    from fastrpn.analysis import design_anchors, markdown_table
    from fastrpn.analysis.plots import plot_anchor_design
    from fastrpn.data import open_dataset

    train = open_dataset(options.data, options.train_set, on_bad_data=options.on_bad_data)
    held_out = None
    if options.val_set:
        held_out = open_dataset(options.data, options.val_set, train.classes, options.on_bad_data)
    model = options.model or "vgg16"
    design = design_anchors(train, options.number, model=model, validation=held_out)
    print(markdown_table(design.rows))
    own = len(design.default_shapes)
    for threshold in design.thresholds:
        needed = design.needed(threshold)
        if needed is None:
            told = f"none of these numbers reaches the recall of {model}'s {own}"
        else:
            saved = design.saved(threshold)
            told = f"{needed} designed do the work of {model}'s {own}: {saved} anchors saved"
        print(f"IoU {threshold:g}: {told}")
    ((name, shapes),) = design.model_options.items()
    levels = [[list(shape) for shape in level] for level in shapes]
    print(f"train with: --model {model} --model-options '{name}={levels}'")
    print(f"wrote {plot_anchor_design(design, options.output)}")


def _receptive_field(options: argparse.Namespace) -> None:
    """What each position of a model sees, and the anchors that reach further."""
    from fastrpn.analysis import markdown_table, measured_fields, report_receptive_field
    from fastrpn.analysis.plots import plot_receptive_field

    report = report_receptive_field(options.model)
    summary = report.summary
    if options.gradient:
        for row, field in zip(summary, measured_fields(options.model), strict=True):
            row["by gradient"] = f"{field.size[1]:g}×{field.size[0]:g}"
    print(markdown_table(summary), end="\n\n")
    print(markdown_table(report.rows))
    uncovered = sum(not anchor.covered for anchor in report.anchors)
    print(f"{uncovered} of {len(report.anchors)} anchors reach out of the receptive field")
    print(f"wrote {plot_receptive_field(report, options.output)}")


def _draw(options: argparse.Namespace) -> None:
    """The anchors of one position, drawn to scale."""
    import torch

    from fastrpn.drawing import draw_anchors
    from fastrpn.images import write_image
    from fastrpn.models.anchors import cell_anchors

    around_origin = cell_anchors(options.sizes, options.ratios, stride=0, convention="paper")
    anchors = around_origin + torch.tensor(options.position).repeat(2)
    picture = draw_anchors(anchors, tuple(options.image_size), tuple(options.position))
    for x1, y1, x2, y2 in anchors.tolist():
        print(f"{x2 - x1:6.1f} x {y2 - y1:6.1f}   ({x1:.1f}, {y1:.1f}, {x2:.1f}, {y2:.1f})")
    print(f"wrote {write_image(options.output, picture)}")
