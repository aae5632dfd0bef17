"""Tools to judge a design: receptive fields, anchors, proposals.

Functions return data; what draws is in :mod:`fastrpn.analysis.plots`.
"""

from fastrpn._extras import require

require("train")

from fastrpn.analysis.anchor_coverage import (
    AnchorCoverage,
    ReceptiveFieldReport,
    anchor_coverage,
    measured_fields,
    receptive_field_of_model,
    report_receptive_field,
)
from fastrpn.analysis.anchor_design import AnchorDesign, design_anchors
from fastrpn.analysis.anchor_recall import best_anchor_iou
from fastrpn.analysis.dataset_boxes import GroundTruthBoxes, dataset_boxes
from fastrpn.analysis.gradient_field import gradient_field
from fastrpn.analysis.kmeans_anchors import kmeans_anchors
from fastrpn.analysis.proposal_recall import PROPOSAL_COUNTS, ProposalRecall, proposal_recall
from fastrpn.analysis.receptive_field import FieldAxis, ReceptiveField, receptive_field
from fastrpn.analysis.tables import markdown_table
from fastrpn.inference.propose import propose_dataset, rpn_proposals, selective_search

__all__ = [
    "PROPOSAL_COUNTS",
    "AnchorCoverage",
    "AnchorDesign",
    "FieldAxis",
    "GroundTruthBoxes",
    "ProposalRecall",
    "ReceptiveField",
    "ReceptiveFieldReport",
    "anchor_coverage",
    "best_anchor_iou",
    "dataset_boxes",
    "design_anchors",
    "gradient_field",
    "kmeans_anchors",
    "markdown_table",
    "measured_fields",
    "proposal_recall",
    "propose_dataset",
    "receptive_field",
    "receptive_field_of_model",
    "report_receptive_field",
    "rpn_proposals",
    "selective_search",
]
