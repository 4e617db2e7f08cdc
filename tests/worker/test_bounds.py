"""How much is done beside the thread that keeps the device busy."""

import torch

from ncbatch.worker.bounds import Bounds


def test_a_cpu_is_shared_and_a_gpu_is_not_to_wait() -> None:
    cpu, gpu = Bounds.of(torch.device("cpu"), 4), Bounds.of(torch.device("cuda"), 4)
    assert (cpu.finishers, gpu.finishers) == (1, 4)
    assert Bounds.of(torch.device("cuda"), 1).finishers == 2
    assert cpu.behind < gpu.behind and cpu.ahead < gpu.ahead
