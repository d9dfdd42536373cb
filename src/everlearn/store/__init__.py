"""Durable memories."""

from everlearn.store.folder import FolderStore

__all__ = ["FolderStore"]
