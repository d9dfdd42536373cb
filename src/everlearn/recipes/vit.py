"""Train a vision Transformer with any optimizer, in a folder that can be gone on with after an interrupt.

`python -m everlearn.recipes.vit --data digits --optimizer m3 --out FOLDER` takes half a minute on one core. `--data` is
also a folder with one subfolder of images for each class, or `hub:NAME`, a data set of the Hugging Face hub.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from everlearn.device import NAMES, describe_device
from everlearn.device import device as choose_device
from everlearn.layout import RUN
from everlearn.memory.files import atomic_write, is_temporary, sole_writer
from everlearn.models.vit import VIT_SIZES, ViT, ViTConfig, vit_sized
from everlearn.recipes.image_files import folder as image_folder
from everlearn.recipes.image_files import hub
from everlearn.recipes.images import BUILT_IN, Images
from everlearn.recipes.optimizers import LRS, OPTIMIZERS, Rates, Schedule
from everlearn.recipes.vit_trainer import ViTRun, ViTTrainer
from everlearn.train import checkpoint
from everlearn.train.log import Log

CHECKPOINTS, SUMMARY, HUB = "checkpoints", "summary.json", "hub:"
INTERRUPTED = 130


def run(
    config: ViTRun,
    images: Images,
    folder: Path,
    *,
    save_every: int = 100,
    test_every: int = 100,
    device: torch.device | None = None,
    on_step: Callable[[int, float], None] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train in a folder, or go on with the run that the folder holds.

    The folder gets `run.json`, the loss of every step in `log.jsonl`, the last two checkpoints and `summary.json`.
    Killed at any moment and called again, it ends in the same bits as if it had never stopped, on the same device and
    with as many threads.

    Args:
        config: of the run.
        images: what it is trained and tested on.
        folder: made when it is missing; one run each.
        save_every: steps between checkpoints, >= 1.
        test_every: steps between tests, >= 1.
        device: where; None is the CPU.
        on_step: called with steps done and the last loss.
        say: called with lines for people.
    Returns:
        what `summary.json` holds: steps, images, seconds, parameters, test_loss [nats] and test_accuracy.
    Raises:
        ValueError: a folder that holds something else or another run, images that are not those of the run, a period
            below 1, or a loss that is not finite, after which the last checkpoint stays.
    """
    for name, period in (("save_every", save_every), ("test_every", test_every)):
        if period < 1:
            raise ValueError(f"{name} is {period}; it counts steps, so a whole number >= 1 is needed; try 100")
    _check(folder, config, images)
    trainer = ViTTrainer(config, images, device)
    with sole_writer(folder):
        if not (folder / RUN).exists():
            atomic_write(folder / RUN, json.dumps(_identity(config, images), indent=1).encode(), private=False)
        found, complaints = checkpoint.load(folder / CHECKPOINTS)
        for line in complaints:
            say(f"passed over: {line}")
        seconds = 0.0
        if found is not None:
            trainer.restore(found)
            seconds = found.about["seconds"]
            say(f"goes on after step {found.step} of {config.schedule.steps}")
        log = Log(folder, trainer.step_number)
        began = time.monotonic() - seconds
        while trainer.step_number < config.schedule.steps:
            loss = trainer.step()
            number = trainer.step_number
            log.add(number, loss=loss, lr=trainer.optimizer.param_groups[0]["lr"])
            last = number == config.schedule.steps
            if number % test_every == 0 and not last:
                score = trainer.test()
                log.add(number, test_loss=score.loss, test_accuracy=score.accuracy)
                say(f"step {number}: {100 * score.accuracy:.1f} % of the test images, loss {score.loss:.3f}")
            if number % save_every == 0 or last:
                seconds = round(time.monotonic() - began, 3)
                checkpoint.save(folder / CHECKPOINTS, trainer.capture({"seconds": seconds}))
            if on_step is not None:
                on_step(number, loss)
        return _finish(trainer, folder, log, seconds)


def _finish(trainer: ViTTrainer, folder: Path, log: Log, seconds: float) -> dict[str, Any]:
    """Test the model, and write what the run came to."""
    score = trainer.test()
    log.add(trainer.step_number, test_loss=score.loss, test_accuracy=score.accuracy)
    log.close()
    summary = {
        "steps": trainer.step_number,
        "images": trainer.step_number * trainer.run.batch_size,
        "seconds": seconds,
        "parameters": sum(weight.numel() for weight in trainer.model.parameters()),
        "test_loss": score.loss,
        "test_accuracy": score.accuracy,
    }
    atomic_write(folder / SUMMARY, json.dumps(summary, indent=1).encode(), private=False)
    return summary


def load(folder: Path) -> tuple[ViT, tuple[str, ...]]:
    """Return the model of a run at its last checkpoint, and the names of its classes.

    Raises:
        ValueError: no run there, none of its steps saved, or damaged files.
    """
    if not (folder / RUN).is_file():
        raise ValueError(f"{folder} holds no run ({RUN} is missing); give the folder of one")
    about = _begun(folder)
    found, _ = checkpoint.load(folder / CHECKPOINTS)
    if found is None:
        raise ValueError(f"the run in {folder} has saved no step yet; a checkpoint is needed: train it for longer")
    model = ViT(ViTConfig(**about["run"]["model"]))
    model.load_state_dict(found.weights)
    return model.eval(), tuple(about["classes"])


def _identity(config: ViTRun, images: Images) -> dict[str, Any]:
    """Return what a folder is begun with."""
    return {"format": 1, "run": config.to_dict(), "classes": list(images.classes), "images": images.fingerprint()}


def _begun(folder: Path) -> dict[str, Any]:
    """Return what the folder of a run was begun with; refuse a damaged file."""
    try:
        about = json.loads((folder / RUN).read_text())
    except ValueError:
        about = None
    if not isinstance(about, dict) or not {"run", "classes", "images"} <= about.keys():
        raise ValueError(f"{folder / RUN} is not what a run wrote; restore it from a copy, or choose a new folder")
    return about


def _check(folder: Path, config: ViTRun, images: Images) -> None:
    """Refuse a folder that cannot hold this run."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; a run needs a folder, which is made when it is missing; choose another")
    if not (folder / RUN).exists():
        if folder.is_dir() and any(p.name != ".lock" and not is_temporary(p) for p in folder.iterdir()):
            raise ValueError(f"{folder} is not empty and holds no run ({RUN} is missing); choose a new folder")
        return
    old, new = _begun(folder), json.loads(json.dumps(_identity(config, images)))
    for name in old["run"]:
        if old["run"][name] != new["run"].get(name):
            raise ValueError(
                f"{folder} holds another run ({name} {old['run'][name]}, now {new['run'].get(name)}); go on with its "
                "own options, or choose a new folder"
            )
    if old["images"] != new["images"]:
        raise ValueError(
            f"the images are not those that the run in {folder} was begun with ({len(old['classes'])} classes then, "
            f"{len(new['classes'])} now); restore the files, or choose a new folder"
        )


def images_of(data: str, size: str, image_size: int | None) -> Images:
    """Return the images that a command line names: "digits", `hub:NAME`, or a folder.

    Raises:
        ValueError: what cannot be read; see `recipes.image_files`.
    """
    if data in BUILT_IN:
        return BUILT_IN[data]()
    pixels = VIT_SIZES[size].get("image_size", 32) if image_size is None else image_size
    if pixels < 1:
        raise ValueError(f"images of {pixels} pixels are none; at least 1 is needed; try 32")
    if data.startswith(HUB):
        return hub(data.removeprefix(HUB), pixels)
    return image_folder(Path(data), pixels)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, a folder of images, or hub:NAME")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--optimizer", default="m3_fast", choices=list(OPTIMIZERS))
    parser.add_argument("--lr", type=float, help="of the optimizer; its own default where it is left out")
    parser.add_argument("--adamw-lr", type=float, default=4e-3, help="of AdamW beside an optimizer for matrices")
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--size", default="tiny", choices=list(VIT_SIZES))
    parser.add_argument("--image-size", type=int, help="pixels; 224 for the large sizes, 32 for a folder and tiny")
    parser.add_argument("--patch-size", type=int, help="pixels; 16 for the large sizes, a fourth of a tiny image")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--decay", type=float, default=0.4, help="share of the steps over which the rate falls")
    parser.add_argument("--clip", type=float)
    parser.add_argument("--smoothing", type=float, default=0.0, help="of the labels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--test-every", type=int, default=100)
    parser.add_argument("--device", default="auto", choices=NAMES)
    return parser.parse_args(arguments)


def config_of(options: argparse.Namespace, images: Images) -> ViTRun:
    """Return the run that a command line asks for."""
    shape = {"image_size": images.image_size, "channels": images.channels, "num_classes": len(images.classes)}
    usual = VIT_SIZES[options.size].get("patch_size", max(1, images.image_size // 4))
    patch = usual if options.patch_size is None else options.patch_size
    return ViTRun(
        model=dataclasses.replace(vit_sized(options.size), **shape, patch_size=patch),
        optimizer=options.optimizer,
        rates=Rates(
            lr=LRS[options.optimizer] if options.lr is None else options.lr,
            adamw_lr=options.adamw_lr,
            weight_decay=options.weight_decay,
        ),
        schedule=Schedule(steps=options.steps, warmup=options.warmup, decay=options.decay),
        batch_size=options.batch_size,
        clip=options.clip,
        smoothing=options.smoothing,
        seed=options.seed,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Train from the command line; return the exit code: 0 done, 1 refused, 130 interrupted."""
    options = _options(arguments)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def show(step: int, loss: float) -> None:
        if step % max(1, options.steps // 20) == 0:
            say(f"step {step} of {options.steps}: loss {loss:.3f}")

    try:
        where, why = choose_device(options.device)
        say(describe_device(where, why))
        images = images_of(options.data, options.size, options.image_size)
        config = config_of(options, images)
        say(f"{images.train_count:,} images of {len(images.classes)} classes; {config.optimizer} {config.rates}")
        often = {"save_every": options.save_every, "test_every": options.test_every}
        summary = run(config, images, options.out, device=where, on_step=show, say=say, **often)
    except (ValueError, OSError) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say(f"interrupted; the same command goes on from the last checkpoint in {options.out}")
        return INTERRUPTED
    print(
        f"{options.out}: {summary['parameters']:,} parameters, {summary['steps']} steps, test loss "
        f"{summary['test_loss']:.3f}, {100 * summary['test_accuracy']:.1f} % right"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
