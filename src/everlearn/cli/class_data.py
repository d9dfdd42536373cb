"""What `everlearn bench` learns from: texts, the digits, or a folder of images, as features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from everlearn.cli.errors import UserError, resume_hint
from everlearn.cli.output import Output

if TYPE_CHECKING:
    from everlearn.cli.bench import Options
    from everlearn.evals.class_incremental import Scenario

SIDE = 32  # of the squares whose pixels are projected
# option -> the kinds of data that read it
READ_BY = {
    "data": ("texts", "images"),
    "encoder": ("texts", "images"),
    "misspelt": ("texts",),
    "side": ("images",),
}


def load(options: Options, out: Output) -> tuple[Scenario, str]:
    """Return the scenario, and what tells its data and features from others.

    Args:
        options: of the verb; `what` is not "speed".
        out: where the scenario is described.
    Raises:
        ValueError: data or an encoder that is not there or cannot be read.
    """
    import json

    from everlearn.evals.class_incremental import load as load_digits
    from everlearn.memory.codec import digest

    kind = options.what if options.what in ("digits", "images") else "texts"
    _say_what_has_no_effect(options, kind, out)
    hint = f"features are kept in {options.out / 'features'}; the same command goes on where it stopped"
    with resume_hint(lambda: hint):
        if kind == "digits":
            scenario = load_digits("digits", None, None)
        else:
            scenario = _texts(options) if kind == "texts" else _images(options)
    if options.per_experience is not None:
        scenario = scenario.dealt(options.per_experience)
    parts = {"train": scenario.train, "validation": scenario.validation, "test": scenario.test}
    tensors = {f"{name}.{part}": value for name, split in parts.items() for part, value in vars(split).items()}
    counts = ", ".join(f"{len(split.y):,} {name}" for name, split in parts.items())
    at_a_time = f"{len(scenario.labels)} classes, {scenario.per_experience} at a time"
    out.say(f"{scenario.name}: {at_a_time}; {counts} records of {scenario.dim} features")
    if scenario.leaked:
        out.say(f"{len(scenario.leaked)} of the test records are also learned: see final_without_leaks in the rows")
    return scenario, digest(tensors, json.dumps([scenario.name, scenario.per_experience, scenario.batch_size]))


def _say_what_has_no_effect(options: Options, kind: str, out: Output) -> None:
    """Name the options that were given and are not read."""
    for name, kinds in READ_BY.items():
        given = vars(options)[name]
        if given and kind not in kinds:
            out.say(f"--{name} has no effect on {kind}")
    if kind == "images" and options.side is not None and options.encoder is not None:
        out.say("--side has no effect on a model of images, which has a size of its own")


def _texts(options: Options) -> Scenario:
    """Read and encode texts."""
    from everlearn.cli.progress import progress
    from everlearn.continual.encoders import DEFAULT, HFEncoder
    from everlearn.continual.feature_cache import FeatureCache
    from everlearn.continual.features import HashedText
    from everlearn.evals.class_incremental import encoded, read_texts

    texts = read_texts(options.what, options.data)
    hashed = options.encoder == "hashed"
    encoder = HashedText() if hashed else HFEncoder(options.encoder or DEFAULT, device=_device(options))
    with progress("Encoding texts", total=len(texts.train + texts.validation + texts.test)) as advance:
        encode = FeatureCache(encoder, options.out / "features", on_items=advance)
        return encoded(options.what, texts, encode, misspelt=options.misspelt)


def _images(options: Options) -> Scenario:
    """Read and encode the images of a folder."""
    from everlearn.cli.progress import progress
    from everlearn.continual.feature_cache import FeatureCache
    from everlearn.continual.image_encoders import HFImageEncoder, RandomPixels
    from everlearn.continual.image_sets import fingerprint, image_folder
    from everlearn.evals.class_incremental import encoded_images

    if options.data is None:
        raise UserError("images need a folder with one subfolder for each class; give it: --data FOLDER")
    if options.encoder == "hashed":
        raise UserError("--encoder hashed is of texts; leave it out, or give a vision model of Hugging Face")
    side = SIDE if options.side is None else options.side
    images = image_folder(options.data)
    pixels = options.encoder is None
    encoder: Any = RandomPixels(side) if pixels else HFImageEncoder(str(options.encoder), device=_device(options))
    with progress("Encoding images", total=len(images.train + images.validation + images.test)) as advance:
        cache = FeatureCache(encoder, options.out / "features", on_items=advance, key=fingerprint)
        return encoded_images(images, cache)


def _device(options: Options) -> Any:
    """Return where the encoder runs."""
    from everlearn.device import device

    return device(options.device)[0]
