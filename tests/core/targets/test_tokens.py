"""Token targets and the tokenizer that is trained for them."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from sklearn.cluster import KMeans

from core.configuring.config import ConfigError, load
from core.models import ViT
from core.targets import TokenTarget
from core.targets import tokenizer as module
from core.targets.pixels import Frames
from core.types import DataSpec, View, generator_for
from tests.core.running.test_trainer import final_weights, run_it

CLIP = DataSpec(channels=3, frames=4, height=8, width=8)
OPTIONS = TokenTarget(vocabulary=16, steps=8)


def build(options=OPTIONS):
    encoder = ViT(width=24, depth=1, heads=2, patch=4, tubelet=2).build(CLIP, generator_for(0))
    return options.build(encoder, CLIP)


def clips_of(indices):
    """Clips whose patches are of few kinds: one of four colours each, with a little noise."""
    colours = torch.randn(4, 3, 1, 1, 1, generator=generator_for(0, "colours"))
    each = [generator_for(0, "clip", int(index)) for index in indices]
    kinds = torch.stack([torch.randint(4, (1, 1, 2, 2), generator=g) for g in each])  # [B, 1, 1, 2, 2]
    noise = torch.stack([0.05 * torch.randn(3, 4, 8, 8, generator=g) for g in each])
    place = kinds.repeat_interleave(4, 3).repeat_interleave(4, 4)[:, 0, 0]  # [B, 8, 8]
    return colours[place][..., 0, 0, 0].permute(0, 3, 1, 2)[:, :, None] + noise


def prepared(cache, options=OPTIONS, seed=0, read=clips_of):
    target = build(options)
    target.prepare(read, 40, cache, seed)
    return target


def weights(target):
    return target.tokenizer.codes


def every_patch(num_clips):
    return View(torch.zeros(num_clips, 0, dtype=torch.int64), torch.arange(8).expand(num_clips, -1))


def test_patches_of_different_colours_get_different_codes(tmp_path):
    clips = clips_of(range(100, 120))
    codes = prepared(tmp_path)(clips, [every_patch(20)])[0]
    colour = clips.view(20, 3, 2, 2, 2, 4, 2, 4).mean((3, 5, 7)).permute(0, 2, 3, 4, 1).reshape(160, 3)
    kinds = (torch.cdist(colour, colour) < 0.3).int().argmax(1)
    pairs = set(zip(kinds.tolist(), codes.flatten().tolist(), strict=True))
    assert codes.dtype is torch.int64
    assert len({kind for kind, _ in pairs}) == 4
    assert len(pairs) == len({code for _, code in pairs})  # no code stands for two colours


def test_the_codes_explain_most_of_the_patches(tmp_path):
    target = prepared(tmp_path)
    patches = target._patches(clips_of(range(40)), torch.arange(8).expand(40, -1)).flatten(0, 1)
    figures = module.quality(target.tokenizer, patches)
    assert figures["unexplained"] < 0.1
    assert figures["perplexity"] > 3


def test_the_same_seed_and_data_give_the_same_tokenizer_and_others_another(tmp_path):
    first = weights(prepared(tmp_path / "a"))
    assert torch.equal(weights(prepared(tmp_path / "b")), first)
    assert not torch.equal(weights(prepared(tmp_path / "c", seed=1)), first)
    assert not torch.equal(weights(prepared(tmp_path / "d", read=lambda i: 2 * clips_of(i))), first)


def test_it_is_trained_once_and_then_read(tmp_path, monkeypatch):
    first = weights(prepared(tmp_path))
    (path,) = (tmp_path / "tokenizers").iterdir()
    monkeypatch.setattr(module, "fit", lambda *_, **__: pytest.fail("trained again"))
    assert torch.equal(weights(prepared(tmp_path)), first)
    for change in ({"steps": 9}, {"vocabulary": 17}):
        with pytest.raises(BaseException, match="trained again"):
            prepared(tmp_path, replace(OPTIONS, **change))
    assert [p.name for p in (tmp_path / "tokenizers").iterdir()] == [path.name]


def test_a_training_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        prepared(tmp_path)
    assert list((tmp_path / "tokenizers").iterdir()) == []


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_weights_can_come_from_a_file(tmp_path, form):
    first = prepared(tmp_path)
    path = tmp_path / f"released.{form}"
    state = first.tokenizer.state_dict()
    save_file(state, path) if form == "safetensors" else torch.save(state, path)
    assert torch.equal(weights(prepared(tmp_path / "other", replace(OPTIONS, path=str(path)))), weights(first))
    assert not (tmp_path / "other").exists()


def test_a_file_that_is_missing_or_of_another_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"target.path=.*none.pt: there is no such file"):
        prepared(tmp_path, replace(OPTIONS, path=str(tmp_path / "none.pt")))
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match=r"target.path=.*torn.safetensors: not a file of weights"):
        prepared(tmp_path, replace(OPTIONS, path=str(torn)))
    (tmp_path / "torn.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"target.path=.*torn.pt: not a file of weights"):
        prepared(tmp_path, replace(OPTIONS, path=str(tmp_path / "torn.pt")))
    torch.save(prepared(tmp_path).tokenizer.state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"codes has shape \(16, 96\), and this run needs \(32, 96\)"):
        prepared(tmp_path, replace(OPTIONS, vocabulary=32, path=str(tmp_path / "other.pt")))


def test_codes_are_those_of_float32_under_autocast(tmp_path):
    target, clips = prepared(tmp_path), clips_of(range(10))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(target(clips, [every_patch(10)])[0], target(clips, [every_patch(10)])[0])
        codes = target(clips, [every_patch(10)])[0]
    assert torch.equal(codes, target(clips, [every_patch(10)])[0])


def test_more_codes_than_patches_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"target.vocabulary must be at most the 320 patches .* got 400"):
        prepared(tmp_path, replace(OPTIONS, vocabulary=400))


def test_codes_are_means_of_their_patches_as_in_scikit_learn(tmp_path):
    patches = torch.randn(200, 5, generator=generator_for(0))
    ours = module.Tokenizer(5, 8)
    module.fit(ours, patches, steps=30, generator=generator_for(1))
    start = patches[torch.randperm(200, generator=generator_for(1))[:8]].numpy()
    theirs = KMeans(8, init=start, n_init=1, max_iter=30, tol=0).fit(patches.numpy())
    torch.testing.assert_close(ours.codes, torch.from_numpy(theirs.cluster_centers_), atol=1e-4, rtol=1e-4)


def test_the_predicted_frames_are_those_of_pixels():
    assert build().tokenizer.codes.shape == (16, 2 * 4 * 4 * 3)
    assert build(replace(OPTIONS, frames=Frames.mae_st)).tokenizer.codes.shape == (16, 4 * 4 * 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["target=tokens"], "loss=mse: target=tokens is a class for each patch; losses for that: cross_entropy"),
        (["loss=cross_entropy"], "loss=cross_entropy: target=pixels is a vector for each patch; losses for that: mse,"),
        (["target=tokens", "loss=cross_entropy", "target.vocabulary=1"], "target.vocabulary must be at least 2, got 1"),
    ],
)
def test_tokens_and_cross_entropy_go_together(words, message):
    with pytest.raises(ConfigError, match=message):
        load(["method=mae_st", "scale=smoke", *words])


def test_a_run_on_tokens_learns_them_and_resumes_without_its_cache(tmp_path):
    words = ["method=mae_st", "target=tokens", "loss=cross_entropy", "target.vocabulary=16", "target.steps=3"]
    whole = run_it(tmp_path / "cache", tmp_path / "whole", *words)
    assert whole.outcome == "done"
    assert whole.points[1]["loss"] == pytest.approx(2.77, abs=1.5)  # log 16
    run_it(tmp_path / "cache", tmp_path / "parts", *words, stop_after=3)
    for path in (tmp_path / "cache" / "tokenizers").iterdir():
        path.unlink()
    run_it(tmp_path / "cache", tmp_path / "parts", *words)
    assert final_weights(tmp_path / "parts") == final_weights(tmp_path / "whole")
