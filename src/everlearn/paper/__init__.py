"""Where the equations of the papers live in the code."""

from everlearn.paper.tags import KINDS, PAPERS, Tag, labels, scan

__all__ = ["KINDS", "PAPERS", "Tag", "labels", "scan"]
