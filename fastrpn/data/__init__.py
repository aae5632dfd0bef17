"""Data sets, loading, and the synthetic data set of the demo."""

from fastrpn._extras import require

require("train")

from fastrpn.data.augment import (
    ColorJitter,
    RandomCrop,
    RandomQuarterTurn,
    RandomShortSide,
    augmentation,
)
from fastrpn.data.coco import COCODataset, detections_to_coco_results
from fastrpn.data.cvat import CVATDataset
from fastrpn.data.image_folder import ImageFolderDataset
from fastrpn.data.labelme import LabelmeDataset
from fastrpn.data.loader import Loader, build_loader
from fastrpn.data.open import Reading, concatenate, open_dataset, split_dataset
from fastrpn.data.part import LabelledImages, Part, Samples
from fastrpn.data.proposals import ProposalSet, WithProposals
from fastrpn.data.synthetic import (
    SYNTHETIC_CLASSES,
    ContourBaseline,
    generate_synthetic,
    majority_label,
)
from fastrpn.data.tiles import Tiles
from fastrpn.data.torchvision_style import FromTorchvision
from fastrpn.data.transforms import Compose, RandomHorizontalFlip, ResizeShortSide
from fastrpn.data.voc import VOCDataset
from fastrpn.data.yolo import YOLODataset
from fastrpn.errors import BadDataError

__all__ = [
    "SYNTHETIC_CLASSES",
    "BadDataError",
    "COCODataset",
    "CVATDataset",
    "ColorJitter",
    "Compose",
    "ContourBaseline",
    "FromTorchvision",
    "ImageFolderDataset",
    "LabelmeDataset",
    "LabelledImages",
    "Loader",
    "Part",
    "ProposalSet",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomQuarterTurn",
    "RandomShortSide",
    "Reading",
    "ResizeShortSide",
    "Samples",
    "Tiles",
    "VOCDataset",
    "WithProposals",
    "YOLODataset",
    "augmentation",
    "build_loader",
    "concatenate",
    "detections_to_coco_results",
    "generate_synthetic",
    "majority_label",
    "open_dataset",
    "split_dataset",
]
