"""The equations that everlearn implements or will implement, and what each one is, in plain words.

The words are ours. Where the paper spends several equations on one thing, they share a name.
"""

from __future__ import annotations

from everlearn.paper.tags import KINDS, PAPERS, labels

# tag, as a docstring writes it -> what stands there
_NAMES = {
    "[NL eq. 1]": "gradient descent",
    "[NL eq. 6]": "associative memory: an operator fitted so that keys bring back their values",
    "[NL eq. 8-9]": "back-propagation on a linear layer as a memory of its surprise",
    "[NL eq. 10-13, 33]": "momentum as a memory of gradients",
    "[NL eq. 42-44]": "Muon: orthogonalised momentum",
    "[NL eq. 45]": "tasks in orthogonal directions, which a momentum forgets",
    "[NL eq. 46-47]": "preconditioned momentum: the memory's values are transformed gradients",
    "[NL eq. 48-49]": "delta momentum: a momentum that forgets by the delta rule",
    "[NL eq. 50]": "deep momentum: the memory of gradients is an MLP",
    "[NL eq. 51]": "momentum with feature maps on its keys",
    "[NL eq. 52]": "momentum with a non-linear output; Newton-Schulz makes it Muon",
    "[NL eq. 53]": "a surface with a winding valley, whose curvature changes along the way",
    "[NL eq. 56-57]": "delta gradient descent (DGD): a step that also forgets along its input",
    "[NL eq. 62]": "softmax attention as a non-parametric memory: kernel regression",
    "[NL eq. 64]": "linear attention: a memory written with the dot-product objective",
    "[NL eq. 65]": "the delta rule: a memory written with the L2 objective",
    "[NL eq. 66]": "Oja's rule as the write of a memory",
    "[NL eq. 67-68]": "the Omega rule: a write that fits a window of tokens",
    "[NL eq. 70]": "Continuum Memory System: MLPs that change at different paces",
    "[NL eq. 71]": "Continuum Memory System: when a level is updated, and by what",
    "[NL eq. 72]": "Continuum Memory System, nested: a level starts from what a slower one has learned",
    "[NL eq. 73]": "Continuum Memory System, sequential: a chain of levels",
    "[NL eq. 74]": "Continuum Memory System, independent: a weighted sum of levels",
    "[NL eq. 75]": "M3's momentum on several time scales",
    "[NL eq. 83-84]": "self-modifying Titans: every memory changes in context",
    "[NL eq. 85]": "self-modifying Titans: memories generate keys, values and gates; the query is a fixed projection",
    "[NL eq. 86]": "self-modifying Titans: a token is read before it is written",
    "[NL eq. 87]": "self-modifying Titans: each memory generates its own value",
    "[NL eq. 88]": "self-modifying Titans: every memory is written by DGD",
    "[NL eq. 90-91]": "self-modifying Titans, chunk by chunk",
    "[NL eq. 92]": "self-modifying Titans: the write for the dot-product objective",
    "[NL eq. 93]": "self-modifying Titans: the write for the L2 objective",
    "[NL eq. 94-97]": "the Hope block: a sequence mixer, then a Continuum Memory System",
    "[NL eq. 101-105]": "Adam as the best element-wise memory of gradients",
    "[NL eq. 113-121]": "delta gradient descent (DGD), derived",
    "[NL alg. 1]": "M3: an optimizer with a fast and a slow momentum, both orthogonalised",
    "[NL def. 2]": "update frequency: the level of a component",
    "[NL def. 3-4]": "nested systems: levels in order of their frequency",
    "[NL sec. 7.3]": "level stacking: every level starts from pretrained weights",
    "[Titans eq. 8]": "surprise: the memory steps against the gradient of its loss",
    "[Titans eq. 9-10]": "surprise with momentum",
    "[Titans eq. 11]": "projections to keys and values",
    "[Titans eq. 12]": "the memory's loss: L2 between what a key brings back and its value",
    "[Titans eq. 13-14]": "the write with momentum and retention",
    "[Titans eq. 15]": "reading the memory with a query",
    "[Titans eq. 16-18]": "writing a chunk of tokens at once",
    "[Titans eq. 19-20]": "persistent memory: learned tokens before the sequence",
    "[Titans eq. 21-25]": "memory as context (MAC)",
    "[Titans eq. 26-28]": "memory as a gate (MAG)",
    "[Titans eq. 29-31]": "memory as a layer (MAL)",
}


def order(label: str) -> tuple[int, int, tuple[int, ...]]:
    """Sort labels as the papers count: by paper, kind and number.

    Example:
        >>> sorted(["NL eq. 10", "NL alg. 1", "Titans eq. 8", "NL eq. 6"], key=order)
        ['NL eq. 6', 'NL eq. 10', 'NL alg. 1', 'Titans eq. 8']
    """
    series, number = label.rsplit(" ", 1)
    paper, kind = series.removesuffix(".").split(" ")
    return PAPERS.index(paper), KINDS.index(kind), tuple(map(int, number.split(".")))


# label -> what it is, in the order of the papers
EQUATIONS = {label: name for tag, name in _NAMES.items() for label in labels(tag)}
EQUATIONS = {label: EQUATIONS[label] for label in sorted(EQUATIONS, key=order)}
