"""Durable memories."""

from everlearn.store.archive import FolderArchive
from everlearn.store.folder import FolderStore

__all__ = ["FolderArchive", "FolderStore"]
