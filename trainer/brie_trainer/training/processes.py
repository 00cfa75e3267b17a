"""The processes that train together, one per device. Alone, every sum is its own. It knows no gradient."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among its like; the launcher's environment says how many there are."""

    rank: int
    count: int
    device: torch.device

    @classmethod
    def join(cls, device: str) -> "Processes":
        """Meet the others, if there are any."""
        state = PartialState(cpu=device == "cpu")
        own = state.device if state.num_processes > 1 else torch.device(device)
        return cls(state.process_index, state.num_processes, own)

    @property
    def speaks(self) -> bool:
        """Whether this is the one that writes and tells."""
        return self.rank == 0

    def deal(self, numbers: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """This process's part of `numbers`: longest first, each to whoever has the fewest tokens so far."""
        hands: list[list[int]] = [[] for _ in range(self.count)]
        load = [0] * self.count
        for number in sorted(numbers, key=lambda number: (-lengths[number], number)):
            least = load.index(min(load))
            hands[least].append(number)
            load[least] += lengths[number]
        return hands[self.rank]

    def sum(self, tensor: Tensor) -> Tensor:
        """Elementwise over all processes."""
        if self.count == 1:
            return tensor
        found: Tensor = reduce(tensor.to(self.device), "sum")
        return found.to(tensor.device)
