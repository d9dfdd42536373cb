"""A model that learns what it reads, for each user apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.learn.guard import Guard, GuardEvent
from everlearn.learn.score import Score, join
from everlearn.learn.spans import ROLES, Rows, Text, Tokens, tokens_of
from everlearn.learn.store_protocol import Notes, Store
from everlearn.learn.stream import End, check_end, read
from everlearn.memory.codec import check_fits
from everlearn.memory.state import ModelState, concat_rows, take_level
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
    Raises:
        ValueError: a model that cannot encode a text.
    Example:
        >>> from everlearn.models import Decoder, preset
        >>> from everlearn.levels import Level
        >>> model = Decoder(preset("delta_net", dim=8, num_heads=1, levels=[Level("fast", 4)], chunk_size=4))
        >>> learner = Learner(model)
        >>> score = learner.read("to be or not to be", user="ada")
        >>> score.steps
        {'fast': 4}
    """

    def __init__(self, model: TextModel | Readable, store: Store | None = None, *, guard: Guard | None = None) -> None:
        if isinstance(model, Readable):
            model = model.reader()
        if isinstance(model, nn.Module) and not callable(getattr(model, "encode", None)):
            raise ValueError(
                f"a {type(model).__name__} does not learn what it reads yet; stack levels on it first: "
                "Learner(stack_levels(model, tokenizer))"
            )
        # a model that has no alphabet says so now, and not when the first text comes
        model.encode("a")
        model.eval()
        self.model, self.store, self.guard = model, store, guard
        self.chunk_size, self.device = model.chunk_size, model.device
        with torch.no_grad():
            self._fresh = model.initial_state(1).detach()
        self._states: dict[str, ModelState] = {}
        self._notes: dict[str, Notes] = {}

    def known_users(self) -> list[str]:
        """Return the users who have a memory here or in the store, sorted."""
        return sorted({*self._states, *(self.store.users() if self.store else [])})

    def knows(self, user: str) -> bool:
        """Tell whether a user has a memory, here or in the store; other users' memories are not looked at."""
        return self._load(user) in self._states

    def state(self, user: str) -> ModelState:
        """Return a user's memory as a value, [1, ...]; an unknown user's is the learned start.

        Raises:
            ValueError: not a name (`memory.users.user_name`), or the store refuses the file.
        """
        return self._states.get(self._load(user), self._fresh)

    def notes(self, user: str) -> Notes:
        """Return the JSON notes that the last commit of this user carried."""
        return self._notes.get(self._load(user), {})

    def whole(self, text: Text) -> Tokens:
        """Return the tokens of a text with those that open it; of these, `position` tells which were read.

        Raises:
            ValueError: an empty text.
        """
        tokens, opening = self._tokens(text, None), self._opening(None, text)
        return Tokens(torch.cat([opening, tokens.ids]), torch.cat([torch.zeros_like(opening).bool(), tokens.skip]))

    def forget(self, user: str) -> bool:
        """Remove a user's memory and notes, here and in the store; tell whether there was one.

        What was exported, or copied by other means, is not reached.
        """
        name = user_name(user)
        known = [self._states.pop(name, None) is not None, bool(self.store and self.store.forget(name))]
        self._notes.pop(name, None)
        return any(known)

    def position(self, user: str) -> int:
        """Return how many tokens of the open segment have been read, the unfinished chunk included."""
        state = self.state(user)
        waiting = state.context.get("open")
        return int(state.segment_len[0]) + (int(waiting["count"][0]) if waiting else 0)

    def restore(self, user: str, snapshot: ModelState, level: str | None = None) -> None:
        """Roll a user back to an earlier `state(user)`: all of it, or one level alone.

        Raises:
            ValueError: a snapshot of another model, of several users, or that is not finite; nothing was changed.
        """
        check_fits(snapshot, self._fresh, "the snapshot")
        if not snapshot.is_finite():
            raise ValueError("the snapshot holds NaN or infinity; roll back to another one")
        state = snapshot if level is None else take_level(self.state(user), snapshot, level)
        self._commit({user: state}, None)

    def score(self, text: Text, user: str | None = None) -> Score:
        """Tell how well a text is predicted as what comes next; nothing is learned.

        Args:
            text: not empty.
            user: whose memory to use; None uses the model as it was trained.
        Raises:
            ValueError: an empty text.
        """
        state = self._fresh if user is None else self.state(user)
        ids, opening = self._tokens(text, user).ids, self._opening(user, text)
        report, _ = read(self.model, torch.cat([opening, ids])[None], state, chunk_size=self.chunk_size, learn=False)
        return Score(report.nll[0, len(opening) :].cpu() / math.log(2), {}, self.model.count_bytes(ids).cpu())

    def read(
        self,
        text: Text | Mapping[str, Text],
        user: str | None = None,
        *,
        end: End = "flush",
        learn_from: Collection[str] = ROLES,
        event: str = "document",
    ) -> Any:
        """Read a text and learn from it, chunk by chunk; each chunk is committed before the next is read.

        Args:
            text: a text for `user`, or one for each of several users, who are read in one batch and never mix. A
                conversation is a list of (role, text).
            user: whose memory learns; left out when `text` names the users.
            end: "flush" ends the document and learns from its last, unfinished chunk; "drop" ends it without;
                "open" waits for more.
            learn_from: roles whose words are learned from; plain text is a "document". All others are context: they
                are scored, and give no gradient. What the model itself wrote is left out unless it is named.
            event: what the end of the text is, for levels that step or restart then, such as "turn".
        Returns:
            `Score`, or user -> `Score` when several users were read.
        Raises:
            ValueError: an empty text, or text and user that do not go together.
        """
        if isinstance(text, Mapping) == (user is not None):
            raise ValueError("give read(text, user=NAME) for one user, or read({name: text, ...}) for several")
        texts = dict(text) if isinstance(text, Mapping) else {user or "": text}
        pieces = list(self.stream(texts, end=end, learn_from=learn_from, event=event))
        scores = {name: join([piece[name] for piece in pieces]) for name in texts}
        return scores if isinstance(text, Mapping) else scores[user or ""]

    def stream(
        self,
        texts: Mapping[str, Text],
        *,
        end: End = "flush",
        learn_from: Collection[str] = ROLES,
        event: str = "document",
        note: Callable[[dict[str, Score]], Notes] | None = None,
    ) -> Iterator[dict[str, Score]]:
        """Read as `read` does, and yield after each commit: each piece closes one chunk.

        Stopping anywhere loses the piece in flight and nothing else; `position` says where to go on.

        Args:
            texts: user -> text.
            end, learn_from, event: see `read`.
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
        before = [self.state(name) for name in users]
        rows = Rows.of(
            [self._tokens(text, name, learn_from) for name, text in texts.items()],
            [self._opening(name, text) for name, text in texts.items()],
        )
        batch = concat_rows(before, self._fresh)
        waiting = batch.context.get("open")
        start, stop = 0, self.chunk_size + 1 - (int(waiting["count"].max()) if waiting else 0)
        while start < rows.length:
            last, piece = stop >= rows.length, rows.piece(start, stop)
            report, batch = read(
                self.model,
                piece.ids,
                batch,
                piece.real,
                skip=piece.skip,
                chunk_size=self.chunk_size,
                end=end if last else "open",
            )
            states: list[ModelState] = [batch.rows([i]) for i in range(len(users))]
            events: list[GuardEvent | None] = [None] * len(users)
            if last and end != "open":
                states, events = self._end_of(event, before, batch)
            scores = {
                name: Score(
                    report.nll[i][piece.shown[i]].cpu() / math.log(2),
                    {level: int(steps[i]) for level, steps in report.steps.items() if steps[i]},
                    self.model.count_bytes(piece.ids[i][piece.shown[i]]).cpu(),
                    events[i],
                )
                for i, name in enumerate(users)
            }
            self._commit(dict(zip(users, states, strict=True)), note(scores) if note else None)
            yield scores
            start, stop = stop, stop + self.chunk_size

    def close(self, user: str, notes: Notes | None = None) -> None:
        """End the open document of a user without learning from its unfinished chunk."""
        self._commit({user: self.model.tick(self.state(user).new_segment(), "document")[0]}, notes)

    def tick(self, event: str, user: str) -> None:
        """Declare an event for a user, such as "session"; levels that wait for it step or restart."""
        self._commit({user: self.model.tick(self.state(user), event)[0]}, None)

    def generate(
        self,
        prompt: Text,
        user: str | None = None,
        *,
        apart: bool = False,
        max_new_tokens: int = 100,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str:
        """Continue a prompt; nothing is learned from it or from what is generated.

        Args:
            prompt: not empty.
            user: whose memory to use; None uses the model as it was trained.
            apart: begin a text of its own, also where the user has a document open; otherwise the prompt goes on there.
            max_new_tokens: how many to add, >= 1.
            temperature: 0 takes the likeliest token, 1 samples from the model's distribution.
            seed: of the sampling.
        Returns:
            the new text, without the prompt.
        Raises:
            ValueError: an empty prompt, max_new_tokens below 1, or a temperature below 0.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens {max_new_tokens} asks for no text; give a number >= 1")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature {temperature} is not a number >= 0; 0 takes the likeliest token")
        state = self._fresh if user is None else self.state(user)
        if apart:
            state = state.new_segment()
        opening = self._opening(None if apart else user, prompt)
        ids = torch.cat([opening, self._tokens(prompt, user).ids])[None]
        generator = torch.Generator().manual_seed(seed)
        waiting = state.context.get("open")
        if waiting is not None:
            ids = torch.cat([waiting["ids"][:, : int(waiting["count"][0])], ids], 1)
        new = []
        with torch.no_grad():
            for _ in range(max_new_tokens):
                logits, state = self.model(ids, state)
                ids = _pick(logits[:, -1], temperature, generator)
                if int(ids) in self.model.stop_ids:
                    break
                new.append(ids[0, 0])
        return self.model.decode(torch.stack(new)) if new else ""

    def _tokens(self, text: Text, user: str | None, learn_from: Collection[str] = ROLES) -> Tokens:
        """Return the tokens of a text; refuse an empty one."""
        return tokens_of(self.model, text, learn_from, f" for user {user!r}" if user else "")

    def _opening(self, user: str | None, text: Text) -> Tensor:
        """Return the tokens that open a text, [0] where a segment of the user is open or they are in it already."""
        opens = not isinstance(text, Tokens) and (user is None or not self.position(user))
        return torch.tensor(self.model.start_ids if opens else (), dtype=torch.long, device=self.device)

    def _end_of(
        self, event: str, before: list[ModelState], batch: ModelState
    ) -> tuple[list[ModelState], list[GuardEvent | None]]:
        """End the text of every row; return each row's state and what the guard did to it."""
        batch, _ = self.model.tick(batch, event)
        states: list[ModelState] = [batch.rows([i]) for i in range(len(before))]
        if self.guard is None:
            return states, [None] * len(states)
        judged = [self.guard(old, new) for old, new in zip(before, states, strict=True)]
        return [state for state, _ in judged], [event for _, event in judged]

    def _load(self, user: str) -> str:
        """Bring a user's memory in from the store, the first time it is asked for; return the name it is kept under."""
        user = user_name(user)
        found = self.store.load(user) if self.store and user not in self._states else None
        if found:
            self._states[user], self._notes[user] = found[0].map(lambda t: t.to(self.device)), found[1]
        return user

    def _commit(self, states: Mapping[str, ModelState], notes: Notes | None) -> None:
        """Make new states durable first and visible after."""
        for user, state in states.items():
            kept = self.notes(user) if notes is None else dict(notes)
            if self.store:
                self.store.save(user, state, kept)
            name = user_name(user)
            self._states[name], self._notes[name] = state, kept


def _pick(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Choose the next token of each row, [B, 1]."""
    if temperature <= 0:
        return logits.argmax(-1, keepdim=True)
    shares = torch.softmax(logits / temperature, -1).cpu()
    return torch.multinomial(shares, 1, generator=generator).to(logits.device)
