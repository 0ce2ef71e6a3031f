import pytest
import torch

from core.losses import CrossEntropy
from core.types import generator_for


def example():
    generator = generator_for(0)
    return 2 * torch.randn(3, 5, 7, generator=generator), torch.randint(7, (3, 5), generator=generator)


def each(logits, classes):
    return -logits.float().softmax(-1).gather(-1, classes[..., None])[..., 0].log()


def test_the_loss_is_the_mean_log_probability_of_the_right_class():
    logits, classes = example()
    torch.testing.assert_close(CrossEntropy()(logits, classes)["loss"], each(logits, classes).mean())


def test_only_valid_places_count():
    logits, classes = example()
    valid = torch.rand(3, 5, generator=generator_for(1)) < 0.6
    torch.testing.assert_close(CrossEntropy()(logits, classes, valid)["loss"], each(logits, classes)[valid].mean())


def test_the_loss_is_float32_under_bfloat16_autocast():
    logits, classes = example()
    with torch.autocast("cpu", torch.bfloat16):
        loss = CrossEntropy()(logits.bfloat16(), classes)["loss"]
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(each(logits.bfloat16(), classes).mean().item(), abs=1e-6)
