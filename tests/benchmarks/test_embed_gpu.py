import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = """
import runpy, sys
sys.argv = "embed_gpu.py --device=cpu --models=tiny --tokens=2000 --tokens-per-batch=512 --datasheet-tflops=1".split()
runpy.run_path("benchmarks/embed_gpu.py", run_name="__main__")
print("loaded:", *sorted(name for name in sys.modules if name.split(".")[0] == "llmemb"))
"""


def test_it_runs_on_a_cpu_with_torch_and_transformers_alone():
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", RUN]
    result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    header, tiny, loaded = result.stdout.splitlines()
    assert re.fullmatch(r"CPU, torch\.float32, torch \S+: [\d.]+ TFLOP/s measured, 1 by its datasheet", header)
    assert re.fullmatch(
        r"tiny: [\d,]+ tokens/s, [\d,]+ texts/s, \d+% of the measured peak, \d+% of the datasheet", tiny
    )
    assert loaded == "loaded: llmemb llmemb.encoder llmemb.encoder.packed"
