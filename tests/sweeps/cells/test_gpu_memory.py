"""Whether a study's steps fit into GPUs' memory, told by `sweeps.plan`."""

from __future__ import annotations

from sweeps.plan import main


def test_a_plan_for_gpus_says_what_a_step_takes_and_what_to_set(capsys):
    words = ["study=masking_ratio", "scale=smoke", "gpus=1", "optim.batch_size=64"]
    assert main([*words, "gpu_memory=80"]) == 0
    told = capsys.readouterr().out
    assert "Memory of a training step on a GPU of 80 GiB" in told and "fits: 2 GiB" in told
    assert main([*words, "gpu_memory=1"]) == 0
    assert "fits on no number of such GPUs" in capsys.readouterr().out


def test_a_number_of_gpus_that_is_none_is_refused(capsys):
    assert main(["study=masking_ratio", "gpus=0"]) == 2
    assert "gpus must be a whole number of at least 1, got '0'" in capsys.readouterr().err
