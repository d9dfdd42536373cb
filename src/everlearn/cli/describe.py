"""Take a model apart into nested levels: a table, JSON, and a drawing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from everlearn.cli.options import JsonTarget

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


@dataclass(frozen=True)
class Options:
    """Show which parts of a model change how often, what each compresses, and what it costs to keep.

    Only shapes are read, so a model of any size fits; nothing is downloaded and no code of a model's folder runs. The
    levels go from the fastest to the slowest; an optimizer is shown as the memories of gradients that it keeps.
    """

    target: Annotated[str, tyro.conf.arg(metavar="TARGET")]
    """a config.json, or a folder with one, of Hugging Face or of ours; or a preset: transformer++, delta_net,
    gated_delta_net, titans_lmm, titans_mac, titans_mag, titans_mal, hope_attention, hope"""
    optimizer: Literal["adamw", "sgd", "momentum", "muon", "none"] = "adamw"
    """what trains it; none for a model that is only read"""
    levels: tuple[int, ...] = ()
    """update periods of a preset's levels in tokens, such as 64 256 1024"""
    context: int = 1024
    """tokens of one row at which a state that grows is counted"""
    svg: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """draw the levels and what passes between them"""
    json: JsonTarget = None


def run(options: Options) -> int:
    """Print the tables, and write the drawing and the JSON document where they were asked for."""
    from everlearn.cli.errors import UserError, command
    from everlearn.cli.models import build
    from everlearn.cli.output import Output, check_target
    from everlearn.levels import describe

    out = Output(options.json)
    if options.svg is not None:
        check_target("--svg", options.svg)
    if options.context < 0:
        raise UserError(f"--context {options.context} is below 0; give the tokens that one row has read, such as 1024")
    model, origin = build(options.target, options.levels)
    out.say(f"device: none, only shapes are read; {origin}")
    system = describe(model, optimizers()[options.optimizer](model), context=options.context)
    out.say(f"\n{system.table()}\n")
    if options.svg is not None:
        out.write(options.svg, system.svg())
    out.finish({"target": options.target, **system.to_dict()})
    repeat = {"levels": options.levels} if options.levels else {}
    ahead = command("describe", "delta_net", levels=(64, 256, 1024))
    if options.target == "delta_net" and options.levels:
        ahead = command("describe", "hope_attention")
    out.say(f"next: {ahead if options.svg else command('describe', options.target, **repeat, svg='levels.svg')}")
    return 0


def optimizers() -> dict[str, Callable[[nn.Module], list[Optimizer]]]:
    """Return how each word of --optimizer is made; Muon takes the matrices of the blocks and AdamW the rest."""
    import torch

    from everlearn.levels.naming import container

    def muon(model: nn.Module) -> list[Optimizer]:
        inner: list[nn.Parameter] = []
        outer: list[nn.Parameter] = []
        for name, parameter in model.named_parameters():
            (inner if parameter.ndim == 2 and container(name) else outer).append(parameter)
        made: list[Optimizer] = [torch.optim.Muon(inner)] if inner else []
        return [*made, torch.optim.AdamW(outer)] if outer else made

    return {
        "adamw": lambda model: [torch.optim.AdamW(model.parameters())],
        "sgd": lambda model: [torch.optim.SGD(model.parameters())],
        "momentum": lambda model: [torch.optim.SGD(model.parameters(), momentum=0.9)],
        "muon": muon,
        "none": lambda model: [],
    }
