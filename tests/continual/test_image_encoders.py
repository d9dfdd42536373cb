"""Image encoders equal the literal pooling of patches, image by image; what takes no images is refused."""

import sys

import pytest
import torch
import transformers

from everlearn.continual.features import RandomReLU
from everlearn.continual.image_encoders import HFImageEncoder, RandomPixels, opened

Image = pytest.importorskip("PIL.Image")
pil = pytest.importorskip("transformers.models.vit.image_processing_pil_vit")

SHAPE = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
SIZE = {"image_size": 16, "patch_size": 8}
TEXT = {**SHAPE, "vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def clip():
    config = transformers.CLIPConfig(text_config=TEXT, vision_config={**SHAPE, **SIZE}, projection_dim=4)
    return transformers.CLIPModel(config)


# name -> the model, and what stands before its four patches
MODELS = {
    "vit": (lambda: transformers.ViTModel(transformers.ViTConfig(**SHAPE, **SIZE), add_pooling_layer=False), 1),
    "registers": (
        lambda: transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(num_register_tokens=3, **SHAPE, **SIZE)
        ),
        4,
    ),
    "clip": (clip, 1),
}


def save(folder, model, seed=0):
    torch.manual_seed(seed)
    made = model()
    made.save_pretrained(folder)
    pil.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return made.eval()


def pictures(count=3, size=(16, 16)):
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, *size), generator=draw, dtype=torch.uint8) for _ in range(count)]


@pytest.mark.parametrize("name", MODELS)
def test_features_are_the_mean_of_the_patches_of_two_layers(tmp_path, name):
    make, before = MODELS[name]
    model = save(tmp_path, make)
    tower = model.vision_model if name == "clip" else model
    encoder = HFImageEncoder(tmp_path)
    got = encoder(pictures())
    assert got.shape == (3, 16) and encoder.dim == 16 and not got.requires_grad
    for image, features in zip(pictures(), got, strict=True):
        # at its own size an image is brought from 0..255 to -1..1 and nothing else
        with torch.no_grad():
            hidden = tower(pixel_values=image[None] / 127.5 - 1, output_hidden_states=True).hidden_states
        parts = [hidden[layer][0, before:].mean(0) for layer in (2, 3)]
        expected = torch.cat([8**0.5 * part / part.norm() for part in parts])
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_maps_are_pooled_over_height_and_width_at_the_size_of_each_image(tmp_path):
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    torch.manual_seed(0)
    model = transformers.ResNetModel(config).eval()
    model.save_pretrained(tmp_path)
    pil.ViTImageProcessorPil(do_resize=False).save_pretrained(tmp_path)
    encoder = HFImageEncoder(tmp_path, layers=(-1,))
    mixed = [*pictures(2, (32, 32)), *pictures(1, (64, 32)), *pictures(1, (32, 32))]
    got = encoder(mixed)
    for image, features in zip(mixed, got, strict=True):
        with torch.no_grad():
            last = model(pixel_values=image[None] / 127.5 - 1).last_hidden_state[0].mean((1, 2))
        torch.testing.assert_close(features, 12**0.5 * last / last.norm(), rtol=1e-4, atol=1e-5)
    assert torch.equal(got[0], got[3]) and encoder([]).shape == (0, 12)


def test_settings_know_weights_layers_and_preparation_but_no_place(tmp_path):
    """The file holds no pooler, which the model draws at random: it must be the same at each load."""
    model, _ = MODELS["vit"]
    save(tmp_path / "one", model), save(tmp_path / "copy", model), save(tmp_path / "other", model, seed=1)
    before = torch.get_rng_state()
    known = HFImageEncoder(tmp_path / "one").settings()
    assert torch.equal(torch.get_rng_state(), before), "loading draws from no generator of others"
    torch.manual_seed(5)
    assert HFImageEncoder(tmp_path / "copy").settings() == known
    assert HFImageEncoder(tmp_path / "other").settings() != known
    assert HFImageEncoder(tmp_path / "one", layers=(-1,)).settings() != known
    pil.ViTImageProcessorPil(size={"height": 16, "width": 16}, do_normalize=False).save_pretrained(tmp_path / "copy")
    assert HFImageEncoder(tmp_path / "copy").settings() != known


def test_what_takes_no_images_is_refused_in_one_line(tmp_path, monkeypatch):
    model, _ = MODELS["vit"]
    save(tmp_path / "vit", model)
    save(tmp_path / "text", lambda: transformers.BertModel(transformers.BertConfig(**SHAPE, vocab_size=50)))
    save(tmp_path / "bare", model)
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    refusals = [
        (lambda: HFImageEncoder(tmp_path / "nowhere"), "does not exist; give a folder"),
        (lambda: HFImageEncoder(tmp_path / "text"), "text gives no hidden layers of an image .*; give a vision model"),
        (
            lambda: HFImageEncoder(tmp_path / "bare"),
            r"no image processor is there; save it too, with image_proc",
        ),
        (lambda: HFImageEncoder(tmp_path / "vit", layers=(4,)), "which has 3; give some of 0 to 3, or -1 to -4"),
        (lambda: HFImageEncoder(tmp_path / "vit", layers=()), "which has 3; give some of 0 to 3"),
        (lambda: opened(torch.zeros(3, 4, 4)), r"dtype torch.float32; \[1, H, W\] or \[3, H, W\] uint8 is needed"),
        (lambda: opened(torch.zeros(2, 4, 4, dtype=torch.uint8)), r"shape \(2, 4, 4\)"),
        (lambda: RandomPixels(0), "side 0 leaves nothing of an image; give a number of pixels"),
    ]
    for refused, words in refusals:
        with pytest.raises(ValueError, match=words) as error:
            refused()
        assert "\n" not in str(error.value)


def test_a_library_that_a_processor_needs_is_named(tmp_path, monkeypatch):
    save(tmp_path, MODELS["vit"][0])

    def needs(*_, **__):
        raise ImportError("\nThisProcessor requires the Torchvision library\nCheck out the page")

    monkeypatch.setattr(transformers.AutoImageProcessor, "from_pretrained", needs)
    words = r"needs a library that is not installed \(ThisProcessor requires the Torchvision library\); install it, or"
    with pytest.raises(ValueError, match=words):
        HFImageEncoder(tmp_path)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=r"need Pillow, which is not installed.*pip install 'everlearn\[vision\]'"):
        HFImageEncoder(tmp_path)


def test_random_pixels_project_the_middle_square_in_three_colours(tmp_path):
    encoder = RandomPixels(2, 5)
    # at its own size nothing is interpolated
    image = torch.tensor([[[0, 51], [102, 255]]], dtype=torch.uint8)
    plain = (image.expand(3, 2, 2).double() / 255).reshape(1, 12)
    torch.testing.assert_close(encoder([image]), RandomReLU(12, 5)(plain), rtol=1e-5, atol=1e-6)
    wide = torch.cat([torch.full((1, 2, 1), 9, dtype=torch.uint8), image, torch.zeros(1, 2, 1, dtype=torch.uint8)], 2)
    torch.testing.assert_close(encoder([wide]), encoder([image]), rtol=1e-5, atol=1e-6)
    Image.fromarray(image[0].numpy()).save(tmp_path / "x.png")
    assert torch.equal(encoder([tmp_path / "x.png", str(tmp_path / "x.png")]), encoder([image, image]))
    assert encoder([]).shape == (0, 5) and encoder.dim == 5
    assert encoder.settings() != RandomPixels(3, 5).settings() and encoder.settings() == RandomPixels(2, 5).settings()
