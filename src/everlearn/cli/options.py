"""Options that several verbs share, so that one word means one thing everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

DeviceName = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    tyro.conf.arg(help="where to compute; auto takes CUDA when there is one, else the CPU"),
]
JsonTarget = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="FILE|-",
        help="write every number as JSON to FILE, or - for standard output",
        help_behavior_hint="",
    ),
]
Seed = Annotated[int, tyro.conf.arg(help="start of every random number generator")]
Quick = Annotated[bool, tyro.conf.arg(help="run a smaller version in less time")]
# what may be left out: help says what happens then, and not that the default is None
Text = Annotated[str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="")]
File = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]
Encoder = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="NAME_OR_PATH",
        help="sentence encoder of Hugging Face, as a folder or a name on the hub; the state remembers it. Of a state "
        "that was begun: where its encoder is now",
        help_behavior_hint="",
    ),
]
Whole = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
Number = Annotated[float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="")]
