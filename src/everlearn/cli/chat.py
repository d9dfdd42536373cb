"""Talk with a model that has a chat template."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.cli.options import DeviceName, File, JsonTarget, Seed

if TYPE_CHECKING:
    from everlearn.cli.output import Output
    from everlearn.learn import Learner, Score, Tokens


@dataclass(frozen=True)
class Options:
    """Talk with a converted model, one line at a time; end with Ctrl-D.

    Nothing is learned unless --learn is given. Then your own words, never the model's, are learned after each answer,
    and your memory is kept.
    """

    state: Path = Path("memory")
    """folder of the memories, made by everlearn convert"""
    user: str = "me"
    """whose memory to use"""
    learn: bool = False
    """learn your own words after each answer"""
    tokens: int = 200
    """how many tokens an answer may have"""
    temperature: float = 0.0
    """0 takes the likeliest token, 1 samples from the model's own distribution"""
    base: File = None
    """where the base of a converted model is now, if it was moved"""
    device: DeviceName = "auto"
    seed: Seed = 0
    json: JsonTarget = None


def run(options: Options) -> int:
    """Answer line by line until the input ends."""
    from everlearn.cli import workspace
    from everlearn.cli.errors import command, resume_hint, same_command
    from everlearn.cli.output import Output
    from everlearn.memory.users import user_name

    out = Output(options.json)
    user_name(options.user)
    workspace.check_seed(options.seed)
    workspace.few_threads(options.state)
    learner = workspace.open_user(options.state, None, options.device, options.base)
    given = options.base
    tokenizer = _tokenizer(learner, given if given is not None and workspace.is_ours(given) else options.state)
    known = learner.knows(options.user)
    _say(
        f"{'with' if known else 'no'} memory of {options.user}{'' if known else ' yet'}; "
        f"{'your words are learned after each answer' if options.learn else 'nothing is learned'}; Ctrl-D ends"
    )
    again = f"the conversation ends here; what was learned is kept; to go on: {same_command('chat', options)}"
    with resume_hint(lambda: again), workspace.sole_writer(options.state) if options.learn else nullcontext():
        turns = _talk(learner, tokenizer, options, out)
    out.finish({"user": options.user, "learn": options.learn, "turns": turns})
    _say(
        f"next: {command('memory', 'show', state=options.state, user=options.user)}"
        if options.learn
        else f"next: {command('chat', state=options.state, user=options.user, learn=True)}"
    )
    return 0


def _tokenizer(learner: Learner, folder: Path) -> Any:
    """Return the tokenizer of a model that can talk; refuse any other model."""
    from everlearn.convert.chat import check_template
    from everlearn.convert.pretrained import Pretrained

    tokenizer = learner.model.tokenizer if isinstance(learner.model, Pretrained) else None
    check_template(tokenizer, f"the model in {folder}")
    return tokenizer


def _talk(learner: Learner, tokenizer: Any, options: Options, out: Output) -> list[dict[str, Any]]:
    """Answer every line; return the turns."""
    messages: list[tuple[str, str]] = []
    turns: list[dict[str, Any]] = []
    if options.learn and learner.position(options.user):
        _say("a document whose reading was interrupted is open; it ends where it is")
        learner.close(options.user, learner.notes(options.user) | {"open": None, "plan": None})
    conversation = f"chat at {int(learner.state(options.user).tokens_seen[0])}"
    for line in _lines():
        messages.append(("user", line))
        prompt = _tokens(tokenizer, messages, answer=True)
        known = options.user if learner.knows(options.user) else None
        route = None if known is None else learner.route(prompt, known, apart=True)
        answer = learner.generate(
            prompt,
            known,
            apart=True,
            route=route,
            max_new_tokens=options.tokens,
            temperature=options.temperature,
            seed=options.seed + len(turns),
        )
        out.say(answer)
        messages.append(("assistant", answer))
        turns.append({"user": line, "assistant": answer, "read_with": route.choice if route else None})
        if options.learn:
            tokens = _tokens(tokenizer, messages, answer=False)
            turns[-1] |= _learned(learner.read(tokens, options.user, name=conversation, event="turn"), tokens)
    if options.learn and learner.archive is not None and turns:
        learner.close(options.user)
        _say(f"what this conversation taught is kept as {conversation!r}")
    return turns


def _tokens(tokenizer: Any, messages: list[tuple[str, str]], *, answer: bool) -> Tokens:
    """Return the conversation; all but the last words of the user are context alone."""
    from everlearn.convert.chat import encode, spans
    from everlearn.learn import Tokens

    pairs = spans(tokenizer, messages, answer=answer)
    ids, owner = encode(tokenizer, pairs)
    last = max(i for i, (role, _) in enumerate(pairs) if role == "user")
    return Tokens(ids, owner != last)


def _learned(score: Score, tokens: Tokens) -> dict[str, Any]:
    """Say what one turn taught."""
    count = int((~tokens.skip).sum())
    steps = ", ".join(f"{level} stepped {n}x" for level, n in score.steps.items()) or "no step yet, it is collected"
    _say(f"(learned from {count} of your tokens: {steps})")
    if score.event is not None:
        _say(f"({score.event})")
    return {"learned_tokens": count, "steps": score.steps}


def _lines() -> Iterator[str]:
    """Yield the lines of standard input that hold a word; ask for each on a terminal."""
    while True:
        if sys.stdin.isatty():
            print("you> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _say(text: str) -> None:
    """Say something that is no part of the conversation."""
    print(text, file=sys.stderr, flush=True)
