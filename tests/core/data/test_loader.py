import pytest
import torch
from PIL import Image

from core.data.image_folder import ImageFolder
from core.data.loader import StepLoader, chosen_workers, step_indices
from core.data.moving_digits import MovingDigits
from core.types import Dataset


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return MovingDigits(num_train=20, size=8).load("train", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def lazy(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("images")
    for split in ("train", "test"):
        for shade in range(10):
            folder = root / split / f"shade{shade % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 10), (20 * shade,) * 3).save(folder / f"{shade}.png")
    dataset = ImageFolder(path=str(root), size=8, memory_gb=0).load("train", root / "cache")
    assert dataset.is_lazy
    return dataset


def test_an_epoch_visits_every_sample_once_and_the_next_in_another_order():
    seen = torch.cat([step_indices(3, step, batch_size=5, length=20) for step in range(1, 9)])
    assert seen[:20].sort().values.tolist() == list(range(20))
    assert seen[20:].sort().values.tolist() == list(range(20))
    assert seen[:20].tolist() != seen[20:].tolist()


@pytest.mark.parametrize("batch_size", [7, 20, 45])
def test_batches_run_across_epochs_without_a_gap(batch_size):
    in_batches = torch.cat([step_indices(3, step, batch_size=batch_size, length=20) for step in range(1, 21)])
    one_by_one = torch.cat([step_indices(3, step, batch_size=1, length=20) for step in range(1, len(in_batches) + 1)])
    assert in_batches.tolist() == one_by_one.tolist()


def test_another_seed_gives_another_order():
    assert (step_indices(0, 1, batch_size=20, length=20) != step_indices(1, 1, batch_size=20, length=20)).any()


def test_a_loader_started_later_gives_the_same_batches(digits):
    whole = dict(StepLoader(digits, batch_size=6, seed=1, num_steps=8))
    rest = dict(StepLoader(digits, batch_size=6, seed=1, start_step=5, num_steps=8))
    assert list(whole) == list(range(1, 9)) and list(rest) == [6, 7, 8]
    assert all((rest[step].clips == whole[step].clips).all() for step in rest)


def test_the_parts_of_all_ranks_make_the_batch(digits):
    whole = dict(StepLoader(digits, batch_size=6, seed=1, num_steps=4))
    parts = [dict(StepLoader(digits, batch_size=6, seed=1, num_steps=4, rank=rank, world_size=3)) for rank in range(3)]
    for step, batch in whole.items():
        assert (torch.cat([part[step].clips for part in parts]) == batch.clips).all()
        assert (torch.cat([part[step].labels["digit"] for part in parts]) == batch.labels["digit"]).all()


def test_any_number_of_workers_gives_the_same_batches(lazy):
    alone = list(StepLoader(lazy, batch_size=4, seed=1, start_step=2, num_steps=9))
    for num_workers in (1, 2):
        shared = list(StepLoader(lazy, batch_size=4, seed=1, start_step=2, num_steps=9, num_workers=num_workers))
        assert [step for step, _ in shared] == [step for step, _ in alone] == list(range(3, 10))
        assert all((a.clips == b.clips).all() for (_, a), (_, b) in zip(alone, shared, strict=True))
        assert all((a.labels["class"] == b.labels["class"]).all() for (_, a), (_, b) in zip(alone, shared, strict=True))


def test_the_global_generator_is_neither_read_nor_moved(lazy):
    before = torch.get_rng_state()
    list(StepLoader(lazy, batch_size=4, seed=1, num_steps=2, num_workers=1))
    assert (torch.get_rng_state() == before).all()


def test_no_steps_left_gives_nothing(lazy):
    assert list(StepLoader(lazy, batch_size=4, seed=1, start_step=5, num_steps=5, num_workers=2)) == []


def test_a_batch_that_the_processes_cannot_share_is_refused(digits):
    with pytest.raises(ValueError, match=r"optim\.batch_size must be a positive multiple of the 4 processes .* got 6"):
        StepLoader(digits, batch_size=6, seed=0, num_steps=1, world_size=4)


def test_repeats_fetch_a_sample_once_and_hold_it_so_many_times_in_a_row(digits):
    once = dict(StepLoader(digits, batch_size=3, seed=1, num_steps=4))
    for step, batch in StepLoader(digits, batch_size=6, seed=1, num_steps=4, repeats=2):
        assert (batch.clips == once[step].clips.repeat_interleave(2, 0)).all()
        assert (batch.labels["digit"] == once[step].labels["digit"].repeat_interleave(2)).all()


def test_repeats_shared_out_over_ranks_make_the_batch(digits):
    whole = dict(StepLoader(digits, batch_size=6, seed=1, num_steps=2, repeats=3))
    parts = [
        dict(StepLoader(digits, batch_size=6, seed=1, num_steps=2, repeats=3, rank=rank, world_size=3))
        for rank in range(3)  # rank 1 has one repeat of the first sample and one of the second
    ]
    for step, batch in whole.items():
        assert (torch.cat([part[step].clips for part in parts]) == batch.clips).all()


def test_with_repeats_fewer_samples_are_read(lazy):
    class Counting:
        spec, is_lazy, read = lazy.spec, False, 0

        def __len__(self):
            return len(lazy)

        def fetch(self, indices):
            self.read += len(indices)
            return lazy.fetch(indices)

    reads = []
    for repeats in (1, 2, 4):
        dataset = Counting()
        list(StepLoader(dataset, batch_size=8, seed=1, num_steps=3, repeats=repeats))
        reads.append(dataset.read)
    assert reads == [24, 12, 6]


def test_two_streams_of_a_seed_have_orders_of_their_own_and_the_first_is_as_without_streams(digits):
    def order(**options):
        return [
            batch.clips.sum().item() for _, batch in StepLoader(digits, batch_size=1, seed=1, num_steps=20, **options)
        ]

    assert order() == order(stream=()) != order(stream=("pairs",))
    assert sorted(order()) == sorted(order(stream=("pairs",)))


class Halves:
    """Two sets in one, of which a step sees only one."""

    is_grouped = True

    def __init__(self, digits):
        self.digits, self.spec = digits, digits.spec

    def __len__(self):
        return len(self.digits)

    def fetch(self, indices):
        return self.digits.fetch(indices)

    def step_indices(self, seed, step, batch_size):
        return torch.arange(batch_size) + 10 * (step % 2)


def test_a_set_of_several_sizes_chooses_the_samples_of_a_step_itself(digits):
    parts = [StepLoader(Halves(digits), batch_size=6, seed=1, num_steps=4, rank=rank, world_size=2) for rank in (0, 1)]
    for step in (1, 2):
        whole = torch.cat([part.batch(step).clips for part in parts])
        assert torch.equal(whole, digits.fetch(torch.arange(6) + 10 * (step % 2)).clips)


def test_a_message_calls_the_batch_size_as_its_option_is_called(digits):
    with pytest.raises(ValueError, match=r"objective\.flow_batch must be a positive multiple of the 2 processes"):
        StepLoader(digits, batch_size=5, seed=1, num_steps=4, world_size=2, option="objective.flow_batch")


@pytest.mark.parametrize("num", [1, 2, 3, 6, 12])
def test_processes_that_outnumber_samples_take_each_as_often_as_any_other(digits, num):
    loaders = [
        StepLoader(digits, batch_size=num, seed=1, num_steps=4, rank=rank, world_size=6, may_repeat=True)
        for rank in range(6)
    ]
    whole = StepLoader(digits, batch_size=num, seed=1, num_steps=4).batch(2).clips
    taken = torch.cat([loader.batch(2).clips for loader in loaders])
    assert torch.equal(taken, whole.repeat_interleave(len(taken) // num, dim=0))


def test_samples_that_cannot_be_taken_equally_often_are_refused(digits):
    with pytest.raises(ValueError, match=r"a positive multiple or a divisor of the 6 processes it is shared by, got 4"):
        StepLoader(digits, batch_size=4, seed=1, num_steps=4, world_size=6, may_repeat=True)


def test_a_gpu_is_given_processes_that_decode_and_a_cpu_only_those_asked_for():
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert chosen_workers(0, cpu) == chosen_workers(0, None) == 0
    assert 1 <= chosen_workers(0, gpu) <= 12
    assert chosen_workers(3, gpu) == chosen_workers(3, cpu) == 3
