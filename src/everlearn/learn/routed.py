"""Reading with what fits best: every candidate of an archive, or one state where there is nothing to choose from."""

from __future__ import annotations

from torch import Tensor

from everlearn.learn.archive import Archive
from everlearn.learn.chunk import check_predictions
from everlearn.learn.route import Route
from everlearn.learn.stream import read
from everlearn.memory.state import ModelState
from everlearn.models.protocol import TextModel


def score_tokens(
    model: TextModel, archive: Archive | None, ids: Tensor, state: ModelState
) -> tuple[Tensor, tuple[Route, ...]]:
    """Score tokens chunk by chunk; nothing is learned.

    Args:
        model: what reads.
        archive: the user's; None for none.
        ids: [T].
        state: the user's, one row.
    Returns:
        nll: of each token in nats, [T].
        routes: see `Archive.score`; none where there is nothing to choose from.
    Raises:
        NotFiniteError: the model predicts NaN.
    """
    if archive is not None and archive.candidates(state):
        nll, routes = archive.score(ids, state, chunk_size=max(2, model.chunk_size))
    else:
        nll, routes = read(model, ids[None], state, chunk_size=model.chunk_size, learn=False)[0].nll[0], []
    # nothing predicts the first token of a segment
    check_predictions(nll[1:])
    return nll, tuple(routes)


def route_prompt(archive: Archive | None, ids: Tensor, state: ModelState) -> Route | None:
    """Return how a prompt, [T], is routed; None where there is nothing to choose from, or nothing to predict in it."""
    predicted = len(ids) > 1 or bool(state.segment_len[0]) or "open" in state.context
    if archive is None or not predicted or not archive.candidates(state):
        return None
    return archive.route(ids, state)
