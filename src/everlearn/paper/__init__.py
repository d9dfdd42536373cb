"""Where the equations of the papers live in the code."""

from everlearn.paper.equations import EQUATIONS, order
from everlearn.paper.find import Found, ask, look_up, merge
from everlearn.paper.tags import Tag, labels, scan

__all__ = ["EQUATIONS", "Found", "Tag", "ask", "labels", "look_up", "merge", "order", "scan"]
