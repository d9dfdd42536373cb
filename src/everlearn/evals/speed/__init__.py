"""How fast a preset is and what it holds, beside a plain Transformer of the same size in the same process."""

from everlearn.evals.speed.report import Report, measure
from everlearn.evals.speed.rounds import Ratio, interleave
from everlearn.evals.speed.subjects import BASELINE, QUICK, Sizes, subject
from everlearn.evals.speed.tables import markdown

__all__ = ["BASELINE", "QUICK", "Ratio", "Report", "Sizes", "interleave", "markdown", "measure", "subject"]
