"""A model that learns what it reads, for each user apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.learn import documents
from everlearn.learn.archive import Archive
from everlearn.learn.documents import KeptDocument
from everlearn.learn.generation import check_options, continue_text
from everlearn.learn.guard import Guard
from everlearn.learn.memories import MakeArchive, Memories
from everlearn.learn.pieces import end_of_text, read_pieces
from everlearn.learn.recall import Recalling
from everlearn.learn.route import Route
from everlearn.learn.routed import route_prompt, score_tokens
from everlearn.learn.score import Score, join
from everlearn.learn.spans import CONTEXT, ROLES, Rows, Text, Tokens, check_roles, tokens_of
from everlearn.learn.store_protocol import Notes, Store
from everlearn.learn.stream import End, Step, check_end
from everlearn.memory.codec import check_fits
from everlearn.memory.slots import SlotMemory
from everlearn.memory.state import ModelState, take_level
from everlearn.memory.users import user_name
from everlearn.models.protocol import Readable, TextModel


class Learner:
    """Read, score and generate with a memory for each user.

    `read` learns; `score` and `generate` never do. A text is scored token by token before anything is learned from it.

    Args:
        model: a decoder of bytes or with a tokenizer, a stacked model with its tokenizer, or what has such a `reader`,
            as `HopeForCausalLM` does for bytes; without levels, reading changes nothing.
        store: where memories outlive the process; None keeps them in this object only.
        guard: asked at the end of every document whether what was learned may stay, such as `learn.ProbeGuard`; None
            keeps it always.
        archive: makes the archive of a user from the model and a shelf, such as `learn.Archive` itself or
            `functools.partial(Archive, rank=4)`. Every document then starts from the model as it was, leaves what it
            taught under its name, and what is scored or continued is routed to what predicts it best. None keeps one
            state for all documents.
        slots: keeps (inner representation -> next token) of what is read, and mixes what it recalls into every
            prediction; None keeps none. Slots hold the text itself.
    Raises:
        ValueError: a model that cannot encode a text, or whose inner representations slots cannot have; a guard beside
            an archive.
    Example:
        >>> from everlearn.models import Decoder, preset
        >>> from everlearn.levels import Level
        >>> model = Decoder(preset("delta_net", dim=8, num_heads=1, levels=[Level("fast", 4)], chunk_size=4))
        >>> learner = Learner(model)
        >>> score = learner.read("to be or not to be", user="ada")
        >>> score.steps
        {'fast': 4}
    """

    def __init__(
        self,
        model: TextModel | Readable,
        store: Store | None = None,
        *,
        guard: Guard | None = None,
        archive: MakeArchive | None = None,
        slots: SlotMemory | None = None,
    ) -> None:
        model = model.reader() if isinstance(model, Readable) else model
        if isinstance(model, nn.Module) and not callable(getattr(model, "encode", None)):
            raise ValueError(
                f"a {type(model).__name__} does not learn what it reads yet; stack levels on it first: "
                "Learner(stack_levels(model, tokenizer))"
            )
        if guard is not None and archive is not None:
            raise ValueError(
                "a guard and an archive were both given; with an archive the model as it was stays a candidate for "
                "every text, so no document can spoil another: leave the guard out"
            )
        # a model that has no alphabet says so now, and not when the first text comes
        model.encode("a")
        model.eval()
        self.model, self.guard, self.archive, self.slots = model, guard, archive, slots
        self.chunk_size, self.device = model.chunk_size, model.device
        self._reader: TextModel = model
        self._step: Step | None = None
        if slots is not None:
            recalling = Recalling(model, slots)
            self._reader, self._step = recalling, recalling.memorize_chunk
        self._memories = Memories(self._reader, store, archive)

    @property
    def store(self) -> Store | None:
        """Return where memories outlive the process."""
        return self._memories.store

    @property
    def fresh(self) -> ModelState:
        """Return what every user starts from, [1, ...]."""
        return self._memories.fresh

    def known_users(self) -> list[str]:
        """Return the users who have a memory here or in the store, sorted."""
        return self._memories.users()

    def knows(self, user: str) -> bool:
        """Tell whether a user has a memory, here or in the store; other users' memories are not looked at."""
        return self._memories.knows(user)

    def state(self, user: str) -> ModelState:
        """Return a user's memory as a value, [1, ...], slots too; an unknown user's is the learned start.

        What is archived is no part of it; see `documents`.

        Raises:
            ValueError: not a name (`memory.users.user_name`), or the store refuses the file.
        """
        return self._memories.state(user)

    def notes(self, user: str) -> Notes:
        """Return the JSON notes that the last commit of this user carried."""
        return self._memories.notes(user)

    def documents(self, user: str) -> list[KeptDocument]:
        """Return what the archive and the slots hold of every document, the oldest first."""
        return documents.kept_documents(self.state(user), self._memories.archive(user))

    def user_archive(self, user: str) -> Archive | None:
        """Return what single documents taught a user, for looking at; None for a learner without archives."""
        return self._memories.archive(user)

    def whole(self, text: Text) -> Tokens:
        """Return the tokens of a text with those that open it; of these, `position` tells which were read.

        Raises:
            ValueError: an empty text.
        """
        tokens, opening = self._tokens(text, None), self._opening(None, text)
        return Tokens(torch.cat([opening, tokens.ids]), torch.cat([torch.zeros_like(opening).bool(), tokens.skip]))

    def forget(self, user: str) -> bool:
        """Remove a user's memory, slots, archive and notes, here and in the store; tell whether there was anything.

        What was exported, or copied by other means, is not reached.
        """
        return self._memories.forget(user)

    def forget_document(self, user: str, name: str, notes: Notes | None = None) -> bool:
        """Remove a document from the archive, every version, and from the slots; tell whether it was there.

        Without an archive, what the levels learned from it stays: it cannot be subtracted.

        Args:
            user: whose document.
            name: under which it was read; one that is open ends.
            notes: committed with it; None keeps them as they are.
        """
        known, state = documents.forget(self._memories, self.slots, user, name)
        if self.knows(user) and (state is not self.state(user) or notes is not None):
            self._commit({user: state}, notes)
        return known

    def roll_back_document(self, user: str, name: str) -> None:
        """Undo the last reading of one archived document: the reading before it comes back, or the document goes.

        Raises:
            ValueError: there is no archive, or the document is not in it.
        """
        state = documents.without_last_reading(self._memories, self.slots, user, name)
        if state is not self.state(user):
            self._commit({user: state}, None)
        archive = self._memories.archive(user)
        assert archive is not None
        archive.roll_back(name)

    def position(self, user: str) -> int:
        """Return how many tokens of the open segment have been read, the unfinished chunk included."""
        state = self.state(user)
        waiting = state.context.get("open")
        return int(state.segment_len[0]) + (int(waiting["count"][0]) if waiting else 0)

    def restore(self, user: str, snapshot: ModelState, level: str | None = None) -> None:
        """Roll a user back to an earlier `state(user)`: all of it, slots too, or one level alone.

        The archive stays as it is; see `roll_back_document`. A value does not say which weights it was learned beside.

        Raises:
            ValueError: a snapshot whose sizes are not this model's, of several users, or that is not finite; nothing
                was changed.
        """
        check_fits(snapshot, self.fresh, "the snapshot")
        if not snapshot.is_finite():
            raise ValueError("the snapshot holds NaN or infinity; roll back to another one")
        state = snapshot if level is None else take_level(self.state(user), snapshot, level)
        self._commit({user: state}, None)

    def score(self, text: Text, user: str | None = None) -> Score:
        """Tell how well a text is predicted as what comes next; nothing is learned.

        With an archive every chunk is read with what cost least on the chunk before it; `Score.routes` says with what.

        Args:
            text: not empty.
            user: whose memory to use; None uses the model as it was trained.
        Raises:
            ValueError: an empty text.
        """
        state = self.fresh if user is None else self.state(user)
        ids, opening = self._tokens(text, user).ids, self._opening(user, text)
        archive = None if user is None else self._memories.archive(user)
        nll, routes = score_tokens(self._reader, archive, torch.cat([opening, ids]), state)
        bits = nll[len(opening) :].cpu() / math.log(2)
        return Score(bits, {}, self.model.count_bytes(ids).cpu(), routes=routes)

    def read(
        self,
        text: Text | Mapping[str, Text],
        user: str | None = None,
        *,
        end: End = "flush",
        name: str | Mapping[str, str] | None = None,
        learn_from: Collection[str] = ROLES,
        context: Collection[str] = CONTEXT,
        event: str = "document",
    ) -> Any:
        """Read a text and learn from it, chunk by chunk; each chunk is committed before the next is read.

        Args:
            text: a text for `user`, or one for each of several users, who are read in one batch and never mix. A
                conversation is a list of (role, text).
            user: whose memory learns; left out when `text` names the users.
            end: "flush" ends the document and learns from its last, unfinished chunk; "drop" ends it without;
                "open" waits for more.
            name: of the document, for the archive and the slots: one for all, or user -> name. None keeps that of the
                open one, or makes one of the place where it starts.
            learn_from: roles whose words are learned from; plain text is a "document". What the model itself wrote is
                left out unless it is named.
            context: roles whose words are scored, and give no gradient; any other role is refused.
            event: what the end of the text is, for levels that step or restart then, such as "turn".
        Returns:
            `Score`, or user -> `Score` when several users were read.
        Raises:
            ValueError: an empty text, a role that is in neither list, or text and user that do not go together.
        """
        if isinstance(text, Mapping) == (user is not None):
            raise ValueError("give read(text, user=NAME) for one user, or read({name: text, ...}) for several")
        texts = dict(text) if isinstance(text, Mapping) else {user or "": text}
        options: dict[str, Any] = {"end": end, "name": name, "event": event}
        pieces = list(self.stream(texts, learn_from=learn_from, context=context, **options))
        scores = {owner: join([piece[owner] for piece in pieces]) for owner in texts}
        return scores if isinstance(text, Mapping) else scores[user or ""]

    def stream(
        self,
        texts: Mapping[str, Text],
        *,
        end: End = "flush",
        name: str | Mapping[str, str] | None = None,
        learn_from: Collection[str] = ROLES,
        context: Collection[str] = CONTEXT,
        event: str = "document",
        note: Callable[[dict[str, Score]], Notes] | None = None,
    ) -> Iterator[dict[str, Score]]:
        """Read as `read` does, and yield after each commit: each piece closes one chunk.

        Stopping anywhere loses the piece in flight and nothing else; `position` says where to go on.

        Args:
            texts: user -> text.
            end, name, learn_from, context, event: see `read`.
            note: called with the scores of a piece before its commit; returns the JSON notes that are committed
                with it. None keeps the notes as they are.
        Yields:
            user -> score of the piece; empty for a user whose text has ended.
        Raises:
            ValueError: no text, an empty one, one user under two spellings, or what `learn.read` refuses. Pieces that
                were yielded before stay committed.
        """
        check_end(end)
        users = list(texts)
        if not users:
            raise ValueError("no text was given; give a text for each user, such as {'ada': '...'}")
        if len({user_name(user) for user in users}) < len(users):
            raise ValueError(f"the users {users!a} are one user in several spellings (Unicode); give each once")
        for text in texts.values():
            check_roles(text, {*learn_from, *context})
        rows = Rows.of(
            [self._tokens(text, user, learn_from) for user, text in texts.items()],
            [self._opening(user, text) for user, text in texts.items()],
        )
        before = dict(zip(users, self._begin(users, name, event), strict=True))
        pieces = read_pieces(self._memories, before, rows, guard=self.guard, step=self._step, end=end, event=event)
        for scores, states in pieces:
            self._commit(states, note(scores) if note else None)
            yield scores

    def close(self, user: str, notes: Notes | None = None, *, name: str | None = None) -> None:
        """End the open document of a user without learning from its unfinished chunk.

        Args:
            user: whose document.
            notes: committed with it; None keeps them as they are.
            name: of the document; see `read`.
        """
        state = documents.opened(self._memories, user, name, "close")
        (ended,) = end_of_text(self._memories, None, [user], [state], state.new_segment(), "document")
        self._commit({user: ended.state}, notes)

    def tick(self, event: str, user: str) -> None:
        """Declare an event for a user, such as "session"; levels that wait for it step or restart.

        With an archive "document" is what `close` does.
        """
        if event == documents.EVENT and self.archive is not None:
            self.close(user)
        else:
            self._commit({user: self.model.tick(self.state(user), event)[0]}, None)

    def route(self, prompt: Text, user: str, *, apart: bool = False) -> Route | None:
        """Tell which candidate `generate` goes on with: the one that predicts the prompt best; nothing is learned.

        Args:
            prompt: not empty.
            user: whose archive.
            apart: see `generate`.
        Returns:
            None where there is nothing to choose from, or nothing in the prompt that could be predicted.
        Raises:
            ValueError: an empty prompt.
        """
        ids, state = self._prompt(prompt, user, apart)
        return route_prompt(self._memories.archive(user), ids, state)

    def generate(
        self,
        prompt: Text,
        user: str | None = None,
        *,
        apart: bool = False,
        max_new_tokens: int = 100,
        temperature: float = 0.0,
        seed: int = 0,
        route: Route | None = None,
    ) -> str:
        """Continue a prompt; nothing is learned from it or from what is generated.

        With an archive, what predicts the prompt best goes on; see `route`.

        Args:
            prompt: not empty.
            user: whose memory to use; None uses the model as it was trained.
            apart: begin a text of its own, also where the user has a document open; otherwise the prompt goes on there.
            max_new_tokens: how many to add, >= 1.
            temperature: 0 takes the likeliest token, 1 samples from the model's distribution.
            seed: of the sampling.
            route: what `route` said of this prompt, so that it is not asked again.
        Returns:
            the new text, without the prompt.
        Raises:
            ValueError: an empty prompt, max_new_tokens below 1, or a temperature below 0.
        """
        check_options(max_new_tokens, temperature)
        ids, state = self._prompt(prompt, user, apart)
        archive = None if user is None else self._memories.archive(user)
        route = route or route_prompt(archive, ids, state)
        if archive is not None and route is not None:
            state = archive.onto(route.choice, state)
        options: dict[str, Any] = {"temperature": temperature, "seed": seed}
        return continue_text(self._reader, ids[None], state, max_new_tokens=max_new_tokens, **options)

    def _prompt(self, prompt: Text, user: str | None, apart: bool) -> tuple[Tensor, ModelState]:
        """Return the tokens of a prompt, [T], and the user's state to read them with."""
        state = self.fresh if user is None else self.state(user)
        ids = torch.cat([self._opening(None if apart else user, prompt), self._tokens(prompt, user).ids])
        return ids, state.new_segment() if apart else state

    def _tokens(self, text: Text, user: str | None, learn_from: Collection[str] = ROLES) -> Tokens:
        """Return the tokens of a text; refuse an empty one."""
        return tokens_of(self.model, text, learn_from, f" for user {user!r}" if user else "")

    def _opening(self, user: str | None, text: Text) -> Tensor:
        """Return the tokens that open a text, [0] where a segment of the user is open or they are in it already."""
        opens = not isinstance(text, Tokens) and (user is None or not self.position(user))
        return torch.tensor(self.model.start_ids if opens else (), dtype=torch.long, device=self.device)

    def _begin(self, users: Sequence[str], name: str | Mapping[str, str] | None, event: str) -> list[ModelState]:
        """Return the states to read with, each with the name of its document."""
        names = dict(name) if isinstance(name, Mapping) else dict.fromkeys(users, name)
        for user in users:
            # what turns have taught is a document of its own, and no part of the one that begins
            if documents.taught_before(self._memories, user, names.get(user), event):
                self.close(user)
        return [documents.opened(self._memories, user, names.get(user), event) for user in users]

    def _commit(self, states: Mapping[str, ModelState], notes: Notes | None) -> None:
        """Make new states durable first and visible after."""
        self._memories.commit(states, notes)
