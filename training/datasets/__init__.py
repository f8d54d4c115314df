"""The data sets of a workspace: imported whole, edited in versions, added to; no torch."""

from training.datasets.dataset import Dataset
from training.datasets.store import DatasetStore

__all__ = ["Dataset", "DatasetStore"]
