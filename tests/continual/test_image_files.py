"""Image files as tensors: squares whose pixels are known."""

import torch

from everlearn.continual.image_files import cut_out


def test_the_middle_is_cut_out_of_an_image_whose_shorter_side_is_an_eighth_larger():
    """A ramp from left to right, 32 x 16: at size 14 it becomes 32 x 16 itself, and columns 9 to 22 are the middle."""
    ramp = (torch.arange(32) * 8).to(torch.uint8).expand(1, 16, 32)
    middle = cut_out(ramp, 14, None)
    torch.testing.assert_close(middle[0], (torch.arange(9, 23) * 8 / 127.5 - 1).expand(14, 14), rtol=0, atol=1e-5)
    seen = {tuple(cut_out(ramp, 14, torch.Generator().manual_seed(n))[0, 0].tolist()) for n in range(40)}
    assert len(seen) >= 15
    falling = [row for row in seen if row[0] > row[-1]]
    assert 4 < len(falling) < len(seen) - 4, "about half of them are mirrored"
