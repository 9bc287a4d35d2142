import pytest
import torch
import torch.nn.functional as F

from sartor.activations.augment import crop_flip
from sartor.errors import BadInput


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_every_image_is_a_shift_or_a_mirrored_shift_of_itself(dtype):
    x = torch.randint(1, 255, (32, 3, 5, 6)).to(dtype)
    out = crop_flip(x, torch.Generator().manual_seed(0), pad=2)
    assert out.shape == x.shape and out.dtype == dtype
    ways = set()
    for before, after in zip(F.pad(x, (2, 2, 2, 2)), out):
        found = [
            (top, left, mirrored)
            for top in range(5) for left in range(5) for mirrored in (False, True)
            if torch.equal(after, crop(before, top, left, mirrored))
        ]  # fmt: skip
        assert len(found) == 1
        ways.update(found)
    assert len(ways) > 15 and {mirrored for _, _, mirrored in ways} == {False, True}


def crop(padded, top, left, mirrored):
    window = padded[:, top : top + 5, left : left + 6]
    return window.flip(2) if mirrored else window


def test_every_shift_comes_about_as_often():
    x = torch.zeros(20_000, 1, 3, 3, dtype=torch.uint8)
    x[:, :, 1, 1] = 1
    where = crop_flip(x, torch.Generator().manual_seed(1), pad=1).flatten(1).float().mean(0)
    assert (where - 1 / 9).abs().max() < 0.01


def test_the_generator_decides_and_the_input_stays():
    x = torch.rand(4, 1, 8, 8)
    before = x.clone()
    a, b, c = (crop_flip(x, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c) and torch.equal(x, before)


def test_only_images():
    with pytest.raises(BadInput, match=r"\[n, channels, height, width\]"):
        crop_flip(torch.zeros(3, 4), torch.Generator())
