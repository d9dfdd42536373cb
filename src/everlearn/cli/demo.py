"""The main job in three scenes, ending in one table, one picture and one page."""

from __future__ import annotations

import json
import multiprocessing
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from everlearn.cli.errors import UserError, command, resume_hint, same_command
from everlearn.cli.options import JsonTarget, Quick, Seed

if TYPE_CHECKING:
    from everlearn.cli.output import Output
    from everlearn.demo.reading import Texts

MARKER = "everlearn-demo.json"
FILES, QUICK_FILES, QUICK_SEEDS, SEEDS = 8, 2, 2, 5
Scene = tuple[dict[str, Any], dict[str, Any]]


@dataclass(frozen=True)
class Options:
    """Show a model that goes on learning from a stream of real data, and measure what it keeps.

    Three scenes, offline, in under three minutes on two cores: a week of new digits; Ada and Bob read different files
    with a small model that is trained here; and the plug is pulled. Ends in a table, a picture and one HTML page.
    """

    out: Path = Path("demo")
    """folder of the page and of everything behind it; made when it is missing"""
    text: tuple[Path, ...] = ()
    """your own text for Ada, Bob and the others to read: two files or more, or folders"""
    fresh: bool = False
    """run again in a folder that holds a finished demo, replacing it"""
    seed: Seed = 0
    quick: Quick = False
    json: JsonTarget = None


def run(options: Options) -> int:
    """Run what is not finished yet, then print the table and write the page."""
    # a second run with --fresh would throw away what the first has finished
    again = same_command("demo", replace(options, fresh=False))
    with resume_hint(lambda: f"finished scenes are kept in {options.out}; to go on: {again}"):
        _run(options)
    return 0


def _run(options: Options) -> None:
    import torch

    from everlearn.cli.output import Output
    from everlearn.cli.workspace import check_seed, sole_writer
    from everlearn.demo.page import write_page
    from everlearn.demo.summary import summary_table
    from everlearn.device import describe_device, device

    out = Output(options.json)
    check_seed(options.seed)
    torch.set_num_threads(1)  # two processes, one thread each: faster than two threads on models this small
    out.say(describe_device(*device("cpu")))
    texts = _texts(options, out)
    _check(options)
    with sole_writer(options.out):
        _prepare(options)
        results, pictures = _scenes(options, texts, out)
        page = write_page(results, pictures, options.out)
    out.console().print(summary_table(results))
    out.finish(results)
    out.say(
        f"{results['seconds']:.0f} seconds; picture: {options.out / 'picture.png'}; page: {page.resolve().as_uri()}"
    )
    following = command("learn", "PATH", state="memory", base=options.out / "base")
    out.say(f"next: {following}   (your own folder of text)")


def _scenes(options: Options, texts: Texts, out: Output) -> Scene:
    """Run the week of digits beside the training of the base model, then read, then pull the plug."""
    from everlearn.cli.progress import progress
    from everlearn.demo import reading, restart
    from everlearn.demo.base import load_or_train
    from everlearn.recipes import byte_reader

    start = time.perf_counter()
    base = options.out / "base"
    with _beside(_digits_file, _file(options, "digits"), QUICK_SEEDS if options.quick else SEEDS) as digits:
        steps = byte_reader.training(options.seed, options.quick).steps
        with progress("Training the base model, and a week of digits beside it", total=steps) as advance:
            model, about = load_or_train(
                base,
                seed=options.seed,
                quick=options.quick,
                on_step=lambda _, loss: advance(1, f"{loss:.2f} bits/byte"),
            )
        with progress("Ada and Bob read different files", total=reading.PARTS) as advance:
            scene = _once(_file(options, "reading"), lambda: reading.run(model, texts, lambda word: advance(1, word)))
        with progress("Pulling the plug", total=restart.PARTS) as advance, _scratch(options.out / "restart") as folder:
            text = texts.files[0].data[: reading.LENGTH]
            plug = _once(
                _file(options, "restart"), lambda: (restart.run(base, text, folder, lambda word: advance(1, word)), {})
            )
        with progress("Finishing the week of digits", total=1) as advance:
            digits()
            advance(1)
    week = _numbers(_file(options, "digits"))
    results = {"digits": week[0], "reading": scene[0] | {"base": about}, **plug[0]}
    results["reading"]["base"]["heldout_bits"] = scene[0]["kept"]["before"]
    results["reading"]["own_text"] = bool(options.text)
    results |= {"seconds": _total_seconds(options, time.perf_counter() - start), "environment": _environment()}
    return results, week[1] | scene[1]


def _digits_file(file: Path, seeds: int) -> None:
    """Run scene 1 in a process of its own and leave its numbers in a file."""
    import torch

    from everlearn.demo import digits

    torch.set_num_threads(1)

    def scene() -> Scene:
        results = digits.run(seeds)
        picture = results.pop("picture")
        return results | {"seeds": seeds}, {"digit": picture}

    _once(file, scene)


def _once(file: Path, make: Callable[[], Scene]) -> Scene:
    """Return a scene's numbers from its file; run the scene when there is none."""
    from everlearn.cli.output import finite
    from everlearn.memory.files import atomic_write

    if not file.exists():
        atomic_write(file, json.dumps([finite(part) for part in make()]).encode())
    return _numbers(file)


def _numbers(file: Path) -> Scene:
    """Read a scene's numbers."""
    try:
        results, pictures = json.loads(file.read_text())
    except (ValueError, TypeError):
        raise UserError(f"{file} is not whole; remove it and run the same command again") from None
    return results, pictures


@contextmanager
def _beside(work: Callable[..., None], *arguments: Any) -> Iterator[Callable[[], None]]:
    """Run work in a process beside this one; yield what waits for its end and reports its failure."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments, daemon=True)
    # Ctrl-C reaches every process of the terminal; this one alone answers it, and ends the other
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, handler)

    def finish() -> None:
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"the week of digits failed with exit code {process.exitcode}; see its message above")

    try:
        yield finish
    finally:
        process.terminate()
        process.join()


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Yield an empty folder, and remove it afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _texts(options: Options, out: Output) -> Texts:
    """Choose what is read: other packages' files, or the user's own."""
    from everlearn.demo.corpus import standard_library, unseen_files, user_text
    from everlearn.demo.reading import Texts
    from everlearn.recipes import byte_reader

    known, heldout = standard_library(byte_reader.TRAIN_BYTES, 150_000)
    count = QUICK_FILES if options.quick else FILES
    if not options.text:
        return Texts(known, heldout, unseen_files(known, count))
    own = user_text(options.text)
    for line in own.skipped:
        out.say(f"skipped: {line}")
    if len(own.documents) < 2:
        raise UserError(f"--text gives {len(own.documents)} readable file; Ada and Bob need one each: give two or more")
    if len(own.documents) > FILES:
        out.say(f"--text gives {len(own.documents)} files; the first {FILES} are read")
    return Texts(known, heldout, own.documents[:FILES])


def _check(options: Options) -> None:
    """Refuse a folder that the demo cannot use; nothing is changed.

    Raises:
        UserError: the folder is not empty and holds something else, or a demo with other settings.
    """
    from everlearn.memory.files import is_temporary

    marker = options.out / MARKER
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {options.out} is a file; give a folder, which is made when it is missing")
    if marker.exists():
        if not options.fresh and _marker(options)["settings"] != _settings(options):
            raise UserError(
                f"{options.out} holds a demo with other settings; add --fresh to replace it, or choose another --out"
            )
    elif options.out.is_dir() and any(p.name != ".lock" and not is_temporary(p) for p in options.out.iterdir()):
        raise UserError(f"--out {options.out} is not empty and holds no demo; choose another folder")


def _prepare(options: Options) -> None:
    """Make the folder ready: a new one, or one of an unfinished demo with the same settings."""
    from everlearn.memory.files import atomic_write

    marker = options.out / MARKER
    if options.fresh and marker.exists():
        # nothing but what a demo has made: the folder may hold other files by now. The marker goes last.
        for folder in (options.out / "base", options.out / "restart"):
            shutil.rmtree(folder, ignore_errors=True)
        for name in ("digits.json", "reading.json", "restart.json", "picture.png", "index.html", MARKER):
            (options.out / name).unlink(missing_ok=True)
    if not marker.exists():
        atomic_write(marker, json.dumps({"settings": _settings(options), "seconds": 0.0}).encode())


def _settings(options: Options) -> dict[str, Any]:
    """Return what decides the numbers."""
    return {"seed": options.seed, "quick": options.quick, "text": [str(path) for path in options.text]}


def _marker(options: Options) -> dict[str, Any]:
    """Read what an earlier run has noted in the folder."""
    marker = options.out / MARKER
    try:
        content = json.loads(marker.read_text())
        return {"settings": content["settings"], "seconds": float(content["seconds"]), **content}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{marker} is not whole; add --fresh to run again from the start") from None


def _total_seconds(options: Options, now: float) -> float:
    """Add this run's seconds to those of runs that were interrupted; a finished demo keeps its total."""
    from everlearn.memory.files import atomic_write

    content = _marker(options)
    if not content.get("finished"):
        content |= {"seconds": content["seconds"] + now, "finished": True}
        atomic_write(options.out / MARKER, json.dumps(content).encode())
    return content["seconds"]


def _environment() -> dict[str, Any]:
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": "cpu",
        "platform": platform.platform(),
    }


def _file(options: Options, scene: str) -> Path:
    """Return where the numbers of a scene are kept."""
    return options.out / f"{scene}.json"
