"""The vision Transformer: counted by hand, against torch's own encoder, and blind to the order of patches."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from everlearn.levels import describe
from everlearn.models.vit import VIT_SIZES, PatchAttention, ViT, ViTBlock, ViTConfig, cut, vit_sized

SMALL = ViTConfig(
    image_size=6, patch_size=2, channels=3, num_classes=5, dim=8, num_layers=2, num_heads=2, hidden_dim=12
)


def count(config):
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in ViT(config).parameters())


@pytest.mark.parametrize("size", VIT_SIZES)
def test_parameters_are_what_the_shape_says(size):
    """Patches and positions; per block 4 d^2 + 2 d h, their biases, two norms; the last norm, the head."""
    c = vit_sized(size, num_classes=1000)
    d, h, pixels = c.dim, c.hidden_dim, c.channels * c.patch_size**2
    block = 4 * d * d + 4 * d + 2 * d * h + h + d + 4 * d
    assert count(c) == (pixels + 1) * d + c.num_patches * d + c.num_layers * block + 2 * d + 1000 * (d + 1)


@pytest.mark.parametrize(("size", "wanted"), [("24M", 24e6), ("86M", 86e6)])
def test_the_sizes_of_the_paper_hold_what_their_names_say(size, wanted):
    config = vit_sized(size, num_classes=1000)
    assert count(config) == pytest.approx(wanted, rel=0.01)
    assert (config.image_size, config.patch_size, config.num_patches) == (224, 16, 196)
    assert config.hidden_dim == {"24M": 1536, "86M": 3072}[size]


def test_patches_are_what_a_convolution_of_their_width_and_stride_sees():
    torch.manual_seed(0)
    images, layer = torch.randn(2, 3, 6, 6).double(), nn.Linear(12, 8).double()
    wanted = F.conv2d(images, layer.weight.reshape(8, 3, 2, 2), layer.bias, stride=2).flatten(2).mT
    torch.testing.assert_close(layer(cut(images, 2)), wanted, rtol=1e-12, atol=1e-12)


def test_a_block_is_torchs_own_encoder_layer():
    """The pre-norm layer of torch.nn with the same weights, in float64, values and gradients."""
    torch.manual_seed(0)
    ours = ViTBlock(SMALL).double()
    theirs = nn.TransformerEncoderLayer(8, 2, 12, 0.0, "gelu", batch_first=True, norm_first=True).double()
    pairs = {
        "self_attn.in_proj_weight": "attention.qkv.weight",
        "self_attn.in_proj_bias": "attention.qkv.bias",
        "self_attn.out_proj.weight": "attention.out.weight",
        "self_attn.out_proj.bias": "attention.out.bias",
        "linear1.weight": "mlp.0.weight",
        "linear1.bias": "mlp.0.bias",
        "linear2.weight": "mlp.2.weight",
        "linear2.bias": "mlp.2.bias",
        "norm1.weight": "attention_norm.weight",
        "norm1.bias": "attention_norm.bias",
        "norm2.weight": "mlp_norm.weight",
        "norm2.bias": "mlp_norm.bias",
    }
    own = {name: torch.randn_like(value) for name, value in ours.state_dict().items()}
    ours.load_state_dict(own)
    theirs.load_state_dict({name: own[mine] for name, mine in pairs.items()})
    x = torch.randn(3, 9, 8, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)
    seen = [torch.autograd.grad(layer(x).square().sum(), x)[0] for layer in (ours, theirs)]
    torch.testing.assert_close(*seen, rtol=1e-10, atol=1e-10)


def test_attention_has_no_order():
    torch.manual_seed(0)
    layer, x, order = PatchAttention(8, 2).double(), torch.randn(2, 7, 8).double(), torch.randperm(7)
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], rtol=1e-12, atol=1e-12)


def test_only_the_positions_tell_patches_apart():
    """With positions of zero an image may be shuffled patch by patch; with those of the start it may not."""
    torch.manual_seed(0)
    model, image = ViT(SMALL).double(), torch.randn(1, 3, 6, 6).double()
    shuffled = image.flip(-1).unfold(-1, 2, 2).flip(-1).reshape(1, 3, 6, 6)  # columns of patches in reverse
    assert not torch.equal(image, shuffled)
    assert not torch.allclose(model(image), model(shuffled), atol=1e-9)
    nn.init.zeros_(model.positions)
    torch.testing.assert_close(model(image), model(shuffled), rtol=1e-10, atol=1e-12)


def test_around_the_blocks_it_is_its_formula():
    """With blocks that add nothing: head(mean over patches of norm(W patch + b + position))."""
    torch.manual_seed(0)
    model, images = ViT(SMALL).double(), torch.randn(2, 3, 6, 6).double()
    for block in model.blocks:
        for layer in (block.attention.out, block.mlp[2]):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    tokens = cut(images, 2) @ model.patches.weight.T + model.patches.bias + model.positions
    centred = tokens - tokens.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    wanted = normed.mean(1) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images), wanted, rtol=1e-10, atol=1e-12)


def test_rows_never_mix():
    torch.manual_seed(0)
    model, images = ViT(SMALL), torch.randn(3, 3, 6, 6)
    before = model(images)
    images[1] += 1
    after = model(images)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


def test_it_is_described_by_what_it_is():
    """Attention changes with a forward pass and carries nothing; all the rest is parameters, each counted once."""
    model = ViT(SMALL)
    system = describe(model)
    attention = [c for level in system.levels for c in level.components if c.kind == "attention"]
    assert [(c.unit, c.carried, c.token_bytes) for c in attention] == [("forwards", False, 2 * 2 * 8 * 4)]
    assert system.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert system.notes == ()
    kinds = {c.kind for c in system.levels[-1].components}
    assert kinds == {"embedding", "projections", "norm", "MLP", "head"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"patch_size": 3}, "patch_size 3 does not divide image_size 8.*set image_size=9"),
        ({"num_heads": 5}, "num_heads 5 does not divide dim 64.*set dim=65"),
        ({"num_classes": 1}, "num_classes is 1; it must be a whole number of at least 2"),
        ({"dim": 0}, "dim is 0"),
        ({"num_layers": True}, "num_layers is True"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        ViTConfig(**changes)


def test_what_does_not_exist_or_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="size 'huge' is unknown; the sizes are tiny, 24M, 86M"):
        vit_sized("huge")
    with pytest.raises(ValueError, match=r"images have the shape \(2, 1, 6, 6\); this model takes \[B, 3, 6, 6\]"):
        ViT(SMALL)(torch.zeros(2, 1, 6, 6))
