"""Resources for trials: number of concurrent trials and memory of each, on this machine or the nodes of a Ray cluster.

No Ray is started for it.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch

from ensemble.config.experiment import ResourcesConfig
from ensemble.errors import UsageError
from ensemble.machine import cores, memory, processor_flags
from ensemble.study.cluster import ClusterNode, Needs, needs, slots

_OBJECT_STORE = 0.3  # share of a machine's memory for Ray's object store and other processes


@dataclass(frozen=True)
class Capacity:
    """Nodes, and the resources of a trial of one experiment there."""

    nodes: tuple[ClusterNode, ...]
    request: Needs
    slots: int  # concurrent trials
    device: str  # cpu or cuda
    device_memory: float | None  # bytes of one GPU, where it is this machine's
    local: bool  # this machine and not a cluster

    def available(self, data: int) -> float:
        """Return the bytes that one trial may use, where `data` bytes are shared by the trials of a node.

        Infinite on GPUs of a cluster, whose memory is unknown here.
        """
        if self.device_memory is not None:
            return self.device_memory * min(1.0, self.request.gpus)
        if self.device == "cuda":
            return inf
        if self.request.memory:
            return self.request.memory
        # The fullest node counts: any trial may run there.
        return min((node.memory - data) / max(1, trials_on(self.request, node)) for node in self._suitable_nodes())

    def _suitable_nodes(self) -> list[ClusterNode]:
        return [node for node in self.nodes if trials_on(self.request, node)] or list(self.nodes)


def this_machine() -> ClusterNode:
    """Return the resources of this machine."""
    return ClusterNode(socket.gethostname(), cores(), float(torch.cuda.device_count()), memory() * (1 - _OBJECT_STORE))


def capacity_of(resources: ResourcesConfig, nodes: Sequence[ClusterNode] | None, device: str | None) -> Capacity:
    """Return the capacity for trials with these resources; `nodes` None is this machine.

    Raises UsageError when no node has room for a trial.
    """
    local = nodes is None
    nodes = [this_machine()] if nodes is None else list(nodes)
    request = needs(resources, nodes, device)
    on_gpu = request.gpus > 0
    memory = torch.cuda.get_device_properties(0).total_memory if on_gpu and local else None
    return Capacity(tuple(nodes), request, slots(request, nodes), "cuda" if on_gpu else "cpu", memory, local)


def trials_on(request: Needs, node: ClusterNode) -> int:
    """Return the number of concurrent trials on one node."""
    try:
        return slots(request, [node])
    except UsageError:
        return 0


def gpu_names() -> list[str]:
    """Return the names of the CUDA devices."""
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def bf16_support() -> str:
    """Return whether bf16 products run in hardware, as text: on GPUs if there are any, else on the processor."""
    if torch.cuda.device_count():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return "in hardware" if fast else "emulated: use precision fp32"
    fast = bool({"amx_bf16", "avx512_bf16"} & processor_flags())
    return "in this processor" if fast else "emulated on this processor: use precision fp32"
