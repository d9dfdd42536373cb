"""Continue a prompt."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from everlearn.cli.options import DeviceName, File, JsonTarget, Seed, Text


@dataclass(frozen=True)
class Options:
    """Continue a prompt; nothing is learned from it or from what is generated.

    Standard output carries the new text alone; what else there is to say goes to standard error.
    """

    prompt: str
    """text to continue, or - for standard input"""
    state: Path = Path("memory")
    """folder of the memories"""
    user: Text = None
    """whose memory to use; without it, the model as it was trained"""
    tokens: int = 100
    """how many tokens to add at most"""
    temperature: float = 0.0
    """0 takes the likeliest token, 1 samples from the model's own distribution"""
    base: File = None
    """folder of a trained model, to use it without a state; or where the base of a converted one is now, if it moved"""
    device: DeviceName = "auto"
    seed: Seed = 0
    json: JsonTarget = None


def run(options: Options) -> int:
    """Print the new text."""
    from everlearn.cli import workspace
    from everlearn.cli.errors import UserError, command
    from everlearn.cli.labels import read_text
    from everlearn.cli.output import Output

    out = Output(options.json)
    workspace.check_seed(options.seed)
    workspace.few_threads(options.state)
    prompt = read_text(None, "the text to continue") if options.prompt == "-" else options.prompt
    if not prompt:
        raise UserError("the prompt is empty; give at least one character")
    learner = workspace.open_user(options.state, options.user, options.device, options.base)
    route = None if options.user is None else learner.route(prompt, options.user, apart=True)
    if route is not None:
        _say(f"continued with {route.choice!r}, which predicts the prompt best")
    new = learner.generate(
        prompt,
        options.user,
        apart=True,
        route=route,
        max_new_tokens=options.tokens,
        temperature=options.temperature,
        seed=options.seed,
    )
    out.say(new)
    chosen = None if route is None else {"choice": route.choice, "margin": route.margin, "losses": route.losses}
    out.finish({"prompt": prompt, "text": new, "user": options.user, "route": chosen})
    alone = options.base is not None and not options.state.is_dir()
    own = {"base": options.base} if alone else {"state": options.state}
    whose = {} if options.user is None else {"user": options.user}
    _say(f"next: {command('score', 'FILE', **own, **whose)}")
    return 0


def _say(text: str) -> None:
    """Say something that is no part of the text."""
    print(text, file=sys.stderr, flush=True)
