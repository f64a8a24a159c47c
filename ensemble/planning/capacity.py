"""Where a search would run: how many trials at a time, and what memory each has. This machine, or the nodes of a Ray.

No Ray is started for it. GPUs are asked only where torch is loaded anyway.
"""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import torch

from ensemble.config.experiment import ResourcesConfig
from ensemble.errors import UsageError
from ensemble.study.cluster import ClusterNode, Needs, cpu_count, needs, slots

_OBJECT_STORE = 0.3  # share of a machine's memory that Ray takes for its object store, and other processes have


@dataclass(frozen=True)
class Capacity:
    """Nodes, and what a trial of some experiment gets there."""

    nodes: tuple[ClusterNode, ...]
    request: Needs
    slots: int  # trials at a time
    device: str  # cpu or cuda
    device_memory: float | None  # bytes of one GPU, where it is this machine's
    here: bool  # this machine and not a cluster

    def available(self, data: int) -> float:
        """Return the bytes that one trial may use, `data` bytes being shared by the trials of a node.

        Infinite on GPUs of a cluster, whose memory nobody knows from here.
        """
        if self.device_memory is not None:
            return self.device_memory * min(1.0, self.request.gpus)
        if self.device == "cuda":
            return inf
        if self.request.memory:
            return self.request.memory
        return min((node.memory - data) / max(1, held(self.request, node)) for node in self._holding())

    def _holding(self) -> list[ClusterNode]:
        return [node for node in self.nodes if held(self.request, node)] or list(self.nodes)


def this_machine() -> ClusterNode:
    """Return what this machine offers."""
    return ClusterNode(
        socket.gethostname(), cpu_count(), float(torch.cuda.device_count()), _memory() * (1 - _OBJECT_STORE)
    )


def capacity_of(resources: ResourcesConfig, nodes: Sequence[ClusterNode] | None, device: str | None) -> Capacity:
    """Return where trials with these resources run; `nodes` None is this machine.

    Raises UsageError when no node holds a trial.
    """
    here = nodes is None
    known = [this_machine()] if nodes is None else list(nodes)
    request = needs(resources, known, device)
    on_gpu = request.gpus > 0
    memory = torch.cuda.get_device_properties(0).total_memory if on_gpu and here else None
    return Capacity(tuple(known), request, slots(request, known), "cuda" if on_gpu else "cpu", memory, here)


def held(request: Needs, node: ClusterNode) -> int:
    """Return how many trials one node holds by itself."""
    try:
        return slots(request, [node])
    except UsageError:
        return 0


def _memory() -> int:
    """Return the bytes of memory: the machine's, or the limit of its control group."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return physical
    return physical if limit == "max" else min(physical, int(limit))


def gpu_names() -> list[str]:
    """Return the names of the CUDA devices."""
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def bf16() -> str:
    """Say whether bf16 products run in hardware: on the GPUs where there are any, else on the processor."""
    if torch.cuda.device_count():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return "in hardware" if fast else "emulated: use precision fp32"
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    fast = "amx_bf16" in flags or "avx512_bf16" in flags
    return "in this processor" if fast else "emulated on this processor: use precision fp32"
