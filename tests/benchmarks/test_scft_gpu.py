import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = """
import runpy, sys
sys.argv = "scft_gpu.py --device=cpu --models=tiny --pairs=8 --steps=1 --tokens-per-chunk=100".split()
runpy.run_path("benchmarks/scft_gpu.py", run_name="__main__")
print("loaded:", *sorted(name for name in sys.modules if name.split(".")[0] in ("llmemb", "ray", "deepspeed")))
"""


def test_it_runs_on_a_cpu_with_torch_transformers_and_peft_alone():
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", RUN]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    header, tiny, loaded = result.stdout.splitlines()
    assert re.fullmatch(r"CPU, torch\.float32: [\d.]+ TFLOP/s measured in a square product", header)
    assert re.fullmatch(r"tiny: [\d,]+ tokens/s, \d+% of that", tiny)
    modules = ["contrastive", "encoder", "encoder.batching", "encoder.packed", "scft", "scft.gradient_cache"]
    assert loaded == " ".join(["loaded: llmemb", *(f"llmemb.{name}" for name in modules)])
