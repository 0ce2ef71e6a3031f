import torch

from benchmarks.stack import measured, num_operations, programs


def test_the_model_issues_as_many_operations_for_four_runs_as_for_two(tmp_path):
    torch.set_num_threads(1)
    for method in ("mae_st", "ijepa"):
        found = programs(method, 8, [2, 4], tmp_path, "smoke")
        seconds = measured(found, rounds=1)
        assert all(len(values) == 1 and values[0] > 0 for values in seconds.values())
        counts = {name: num_operations(program, 4)[1] for name, program in found.items()}
        assert counts["S=2"] == counts["S=4"] > 0
