import torch

from core.types.transfer import moved, moved_together, num_bytes, parts

TENSORS = [torch.tensor([True, False, True]), torch.tensor([[2**40, -1]]), torch.rand(5), torch.rand(()), torch.rand(0)]


def test_on_the_host_tensors_are_themselves():
    assert all(there is here for there, here in zip(moved_together("cpu", *TENSORS), TENSORS, strict=True))
    assert moved(TENSORS[0], "cpu") is TENSORS[0]


def test_tensors_of_several_types_lie_in_one_piece_of_memory_without_touching():
    memory = torch.empty(num_bytes(TENSORS), dtype=torch.uint8)
    for place, tensor in zip(parts(memory, TENSORS), TENSORS, strict=True):
        place.copy_(tensor)
    again = parts(memory.clone(), TENSORS)
    for place, tensor in zip(again, TENSORS, strict=True):
        assert place.dtype is tensor.dtype and torch.equal(place, tensor)


def test_nothing_to_move_is_nothing():
    assert moved_together("cuda") == []
