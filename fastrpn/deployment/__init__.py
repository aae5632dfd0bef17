"""Exporting a detector to formats that run without its Python code, and running those."""

from fastrpn.deployment.export import FORMATS, export
from fastrpn.deployment.exported_model import ExportedModel, is_exported

__all__ = ["FORMATS", "ExportedModel", "export", "is_exported"]
