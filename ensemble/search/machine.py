"""What this machine offers to training: GPUs, and bf16 in hardware. It imports torch; `cluster` counts without."""

from pathlib import Path

import torch


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
