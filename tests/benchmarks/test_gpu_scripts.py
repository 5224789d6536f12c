"""What measures a GPU runs on a CPU too, with the few packages that the machine with the GPU has."""

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = """
import runpy, sys
runpy.run_path(sys.argv[0], run_name="__main__")
print("loaded:", *sorted(name for name in sys.modules if name.split(".")[0] in ("llmemb", "ray", "deepspeed")))
"""


def run(script: str, *arguments: str) -> list[str]:
    """The lines it prints, and a last one with what it loaded."""
    code = f"import sys; sys.argv = {[f'benchmarks/{script}', '--device=cpu', '--models=tiny', *arguments]!r}{RUN}"
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_encoding_needs_torch_and_transformers_alone():
    header, tiny, loaded = run("embed_gpu.py", "--tokens=2000", "--tokens-per-batch=512", "--datasheet-tflops=1")
    assert re.fullmatch(r"CPU, torch\.float32, torch \S+: [\d.]+ TFLOP/s measured, 1 by its datasheet", header)
    assert re.fullmatch(
        r"tiny: [\d,]+ tokens/s, [\d,]+ texts/s, \d+% of the measured peak, \d+% of the datasheet", tiny
    )
    assert loaded == "loaded: llmemb llmemb.encoder llmemb.encoder.packed"


def test_fine_tuning_needs_peft_beside_them():
    header, tiny, loaded = run("scft_gpu.py", "--pairs=8", "--steps=1", "--tokens-per-chunk=100")
    assert re.fullmatch(r"CPU, torch\.float32: [\d.]+ TFLOP/s measured in a square product", header)
    assert re.fullmatch(r"tiny: [\d,]+ tokens/s, \d+% of that", tiny)
    modules = ["contrastive", "encoder", "encoder.batching", "encoder.packed", "scft", "scft.gradient_cache", "workers"]
    assert loaded == " ".join(["loaded: llmemb", *(f"llmemb.{name}" for name in modules)])
