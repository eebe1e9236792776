"""Importers: datasets of other formats as files of this package; one module a format, one row in the registry."""

from worldmodel.data.importers.conversion import convert
from worldmodel.data.importers.imported_dataset import ImportedDataset, ImportOptions
from worldmodel.data.importers.importer_registry import IMPORTERS, ImporterRow

__all__ = ["IMPORTERS", "ImportOptions", "ImportedDataset", "ImporterRow", "convert"]
