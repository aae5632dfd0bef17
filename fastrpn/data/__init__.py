"""Data sets, loading, and the synthetic data set of the demo."""

from .augment import ColorJitter, RandomShortSide, augmentation
from .baseline import ContourBaseline, majority_label
from .coco import COCODataset, detections_to_coco_results
from .errors import BadDataError
from .image_io import image_to_array, image_to_tensor, read_image, write_image
from .loader import Loader, build_loader
from .proposals import ProposalSet, WithProposals
from .sources import concatenate, open_dataset
from .synthetic import SYNTHETIC_CLASSES, generate_synthetic
from .torchvision_style import FromTorchvision
from .transforms import Compose, RandomHorizontalFlip, ResizeShortSide
from .voc import VOCDataset

__all__ = [
    "SYNTHETIC_CLASSES",
    "BadDataError",
    "COCODataset",
    "ColorJitter",
    "Compose",
    "ContourBaseline",
    "FromTorchvision",
    "Loader",
    "ProposalSet",
    "RandomHorizontalFlip",
    "RandomShortSide",
    "ResizeShortSide",
    "VOCDataset",
    "WithProposals",
    "augmentation",
    "build_loader",
    "concatenate",
    "detections_to_coco_results",
    "generate_synthetic",
    "image_to_array",
    "image_to_tensor",
    "majority_label",
    "open_dataset",
    "read_image",
    "write_image",
]
