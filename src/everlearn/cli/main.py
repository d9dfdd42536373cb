"""The command line: a table of verbs, and one way for each of them to start and to fail."""

from __future__ import annotations

import difflib
import importlib
import io
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from everlearn import __version__
from everlearn.cli import errors

# verb -> its line in `everlearn --help`; cli/<verb>.py holds the dataclass Options and run(options) -> int
VERBS = {
    "demo": "run the main job: a model goes on learning, and we measure what it keeps (under three minutes)",
    "train": "train a model from nothing on your own text; interrupted, it goes on where it stopped",
    "learn": "learn from your own stream: a folder of text, or JSONL with text and label",
    "read": "read files into one user's memory",
    "convert": "let your own Hugging Face model learn what it reads; the model itself is not changed",
    "score": "tell how well text is predicted, with or without a memory; learns nothing",
    "generate": "continue a prompt, with or without a memory; learns nothing",
    "chat": "talk with a model that has a chat template; learns from your words only with --learn",
    "memory": "list, show, compare, export, import or forget memories",
    "predict": "label texts with what was learned; learns nothing",
    "eval": "measure a memory on other text or records; learns nothing",
    "paper": "show where an equation of the paper lives in the code and in the tests",
    "describe": "take a model apart into nested levels: a table, JSON, a drawing; ours or from Hugging Face",
    "bench": "measure the presets beside a plain Transformer, or what learners keep of classes that keep coming",
    "doctor": "show what this machine offers: device, threads, versions, memory, disk",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 bad usage or bad input, 130 interrupted.

    A ValueError, and an OSError that the user can repair, end as one line on standard error. Any other exception is a
    defect of ours and keeps its traceback.

    Args:
        argv: the words after the command's name; None takes them from the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    errors.open_streams()
    try:
        code = dispatch(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        return errors.interrupted(interrupt)
    except BrokenPipeError:
        errors.give_up_output()
        return errors.FAILED
    except (ValueError, OSError) as error:
        reported = errors.report(error)
        if reported is None:
            raise
        return reported
    return code


def dispatch(arguments: list[str]) -> int:
    """Find the verb that the first word names and run it with the rest."""
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help"):
        print(overview(), end="")
        return errors.DONE
    if first == "--version":
        print(f"everlearn {__version__}")
        return errors.DONE
    if first not in VERBS:
        raise errors.UserError(unknown("command", first, list(VERBS), "everlearn --help"))
    options, shown = parse(first, arguments[1:])
    if options is None:
        print(shown, end="")
        return errors.DONE
    return verb_module(first).run(options)


def overview() -> str:
    """Write the text of `everlearn --help` without importing anything that a verb needs."""
    width = max(map(len, VERBS)) + 2
    verbs = "\n".join(f"  {name:{width}}{summary}" for name, summary in VERBS.items())
    return f"""\
usage: everlearn <command> [options]

Models that go on learning after training, and keep what they knew.

commands:
{verbs}

options:
  -h, --help  show this text; `everlearn <command> --help` shows the options of a command
  --version   show the version

exit codes:   0 done, 1 failed, 2 bad usage or bad input, 130 interrupted and resumable
environment:  NO_COLOR=1 turns colours off, EVERLEARN_DEBUG=1 shows the traceback behind a one-line error
"""


def verb_module(verb: str) -> Any:
    """Import the module of a verb; the heavy imports wait inside its `run`."""
    return importlib.import_module(f"everlearn.cli.{verb}")


def parse(verb: str, arguments: Sequence[str]) -> tuple[Any, str]:
    """Read the options of one verb.

    Args:
        verb: a key of VERBS.
        arguments: the words after the verb.
    Returns:
        options: the verb's Options, or None when the user asked for help.
        shown: the help text, without colours, or "".
    Raises:
        UserError: the words do not fit the options.
    """
    import tyro

    # text is collected instead of shown: an error becomes one line, and help carries no colour codes
    shown, complaint = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(shown), redirect_stderr(complaint):
            options = tyro.cli(
                verb_module(verb).Options,
                args=list(arguments),
                prog=f"everlearn {verb}",
                config=(tyro.conf.PositionalRequiredArgs, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if not stop.code:
            return None, "".join(f"{line.rstrip()}\n" for line in shown.getvalue().rstrip().splitlines())
    else:
        return options, ""
    known = sorted(set(re.findall(r"--[a-z][a-z-]*", parse(verb, ["--help"])[1])))
    for word in arguments:
        name = word.partition("=")[0].replace("_", "-")
        if re.match(r"--?[a-z]", name) and name not in [*known, "-h"]:
            raise errors.UserError(unknown("option", name, known, f"everlearn {verb} --help"))
    raise errors.UserError(f"{unboxed(complaint.getvalue())}; see: everlearn {verb} --help")


def unknown(what: str, got: str, known: list[str], see: str) -> str:
    """Say that a name is unknown, which names there are, and which one was probably meant."""
    near = difflib.get_close_matches(got, known, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"unknown {what} {got!r}; {guess}there are: {', '.join(known)}; see: {see}"


def unboxed(text: str) -> str:
    """Take the sentence out of tyro's error, which is a title, a rule, the sentence, a rule, and advice."""
    sections: list[list[str]] = [[]]
    for line in map(str.strip, text.splitlines()):
        if line and not line.strip("-"):
            sections.append([])
        else:
            sections[-1].append(line)
    sentence = sections[1] if len(sections) > 1 else sections[0]
    return " ".join(sentence).strip().rstrip(".")
