"""What the numbers were measured on, without anything that identifies the machine."""

import os
import platform
import re
import time
from pathlib import Path
from typing import Any

import torch


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _cpu_model() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return match.group(1) if match else platform.machine()


def _quota_cores() -> float | None:
    """The cgroup's CPU limit in cores (version 2, then 1), None where there is none."""
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if not quota:
        quota = _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
        period = _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if not quota.isdigit() or not period.isdigit():
        return None
    return int(quota) / int(period)


def usable_cores() -> int:
    return len(os.sched_getaffinity(0))


def busy_cores(seconds: float = 1.0) -> float:
    """How many cores others keep busy, by the kernel's counts of a moment in which the caller sleeps."""

    def used() -> int:
        user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, _read("/proc/stat").split()[1:11])
        return user + nice + system + irq + softirq + steal

    before = used()
    time.sleep(seconds)
    return (used() - before) / os.sysconf("SC_CLK_TCK") / seconds


def describe() -> dict[str, Any]:
    flags = _read("/proc/cpuinfo").partition("flags")[2].partition("\n")[0].split()
    notable = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")
    return {
        "cpu": _cpu_model(),
        "cpu_flags": [flag for flag in notable if flag in flags],
        "cores_usable": usable_cores(),
        "cores_online": os.cpu_count(),
        "quota_cores": _quota_cores(),
        "ram_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        "load_at_start": os.getloadavg()[0],
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
    }


def short_name() -> str:
    """The CPU in a form fit for a file name."""
    name = re.sub(r"\(R\)|\(TM\)|CPU|Processor|@.*", "", _cpu_model())
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
