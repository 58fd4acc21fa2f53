"""What this machine can do: bfloat16, memory for wider weights, threads that are given back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from alignment import machine, weights
from alignment.config import BackboneConfig
from alignment.machine import multiplies_bfloat16

HASWELL = "processor\t: 0\nflags\t\t: fpu sse4_2 fma avx avx2\n"
SKYLAKE = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512dq avx512bw avx512vl\n"
ALDER_LAKE = "processor\t: 0\nflags\t\t: fpu avx2 avx_vnni avx_ne_convert\n"
GRAVITON = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


@pytest.fixture
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "NVIDIA", tmp_path / "nvidia")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("cpuinfo", "able"), [(HASWELL, False), (SKYLAKE, True), (ALDER_LAKE, True), (GRAVITON, True), (None, True)]
)
def test_auto_is_float32_where_the_processor_has_no_bfloat16(processor: Path, cpuinfo: str | None, able: bool) -> None:
    if cpuinfo is not None:
        processor.write_text(cpuinfo)
    assert multiplies_bfloat16() == able
    found = "bfloat16" if able else "float32"
    assert BackboneConfig().compute_dtype == BackboneConfig(compute_dtype="auto").compute_dtype == found
    assert [BackboneConfig(compute_dtype=name).compute_dtype for name in ("float32", "bfloat16")] == [
        "float32",
        "bfloat16",
    ]


def test_a_gpu_has_bfloat16(processor: Path) -> None:
    processor.write_text(HASWELL)
    assert not multiplies_bfloat16()
    (processor.parent / "nvidia").write_text("NVRM")
    assert multiplies_bfloat16()


def test_a_model_is_used_in_float32_there_if_the_memory_allows(
    processor: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"0" * 1000)  # 2,000 more or less
    plain = BackboneConfig(model=str(folder), quantization="none", compute_dtype="bfloat16")
    small = plain.model_copy(update={"quantization": "nf4"})  # its weights do not grow
    processor.write_text(HASWELL)
    for free, config, dtype in [(4001, plain, "float32"), (4000, plain, "bfloat16"), (4000, small, "float32")]:
        monkeypatch.setattr(weights, "free_memory", lambda free=free: free)
        assert weights.inference_dtype(config) == dtype
    processor.write_text(SKYLAKE)
    assert weights.inference_dtype(plain) == "bfloat16"
    assert weights.inference_dtype(plain.model_copy(update={"compute_dtype": "float32"})) == "float32"


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is what does it there")
def test_a_thread_gives_its_openmp_threads_back_and_gets_new_ones() -> None:
    program = """
import os, time, torch
from alignment.machine import give_back_threads
torch.set_num_threads(3)
count = lambda: len(os.listdir("/proc/self/task"))
def ended(threads):  # the kernel lists one for a moment after it has ended
    until = time.monotonic() + 20
    while count() > threads and time.monotonic() < until:
        time.sleep(0.01)
    return count()
wide = torch.ones(2000, 2000)
wide.sum()
before = count()
give_back_threads()
alone = ended(before - 2)
wide.add(1).sum()
again = count()
give_back_threads()
print(before - alone, again - ended(alone), float(wide.sum()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "2", "4000000.0"]
