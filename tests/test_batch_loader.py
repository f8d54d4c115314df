"""The thread that loads batches ahead, and what it leaves to the loop."""

import torch

from training.loop.batch_loader import BatchLoader


def num_threads_after_work():
    for _ in range(2):
        torch.zeros(1_000_000).add_(1)  # where torch looks up how many threads it may take
        yield torch.get_num_threads()


def test_it_loads_with_one_thread_and_leaves_the_loop_its_own():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with BatchLoader() as batches:
            batches.start(num_threads_after_work())
            assert [batches.next(), batches.next()] == [1, 1]
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
