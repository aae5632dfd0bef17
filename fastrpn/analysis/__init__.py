"""Tools to judge a design: receptive fields, anchors, proposals.

Functions return data; what draws is in :mod:`fastrpn.analysis.plots`.
"""

from fastrpn.analysis.anchor_coverage import (
    AnchorCoverage,
    ReceptiveFieldReport,
    anchor_coverage,
    receptive_field_of_model,
    report_receptive_field,
)
from fastrpn.analysis.gradient_field import gradient_field
from fastrpn.analysis.receptive_field import FieldAxis, ReceptiveField, receptive_field
from fastrpn.analysis.tables import markdown_table

__all__ = [
    "AnchorCoverage",
    "FieldAxis",
    "ReceptiveField",
    "ReceptiveFieldReport",
    "anchor_coverage",
    "gradient_field",
    "markdown_table",
    "receptive_field",
    "receptive_field_of_model",
    "report_receptive_field",
]
