"""The mathematics can be read, tested and profiled without a cluster: importing it loads none."""

import subprocess
import sys
from pathlib import Path

LLMEMB = Path(__file__).resolve().parent.parent / "llmemb"
CLUSTER = {"ray", "deepspeed", "vllm"}
LANGUAGE_MODELS = {"transformers", "peft", "sentence_transformers"}
GROUND = ("llmemb", "llmemb.storage", "llmemb.artifact", "llmemb.config", "llmemb.job", "llmemb.prompts", "llmemb.cli")


def test_ground_loads_nothing_heavy() -> None:
    assert _loaded_by(*GROUND) & {*CLUSTER, *LANGUAGE_MODELS, "torch", "matplotlib", "sklearn"} == set()


def test_mathematics_loads_nothing_of_the_cluster() -> None:
    modules = sorted(_modules_of("data", "srs", "metrics") | {"llmemb.contrastive", "llmemb.encoder.pooling"})
    assert _loaded_by(*modules) & {*CLUSTER, *LANGUAGE_MODELS} == set()


def test_no_module_at_all_loads_the_cluster_when_imported() -> None:
    assert _loaded_by(*sorted(_modules_of())) & CLUSTER == set()


def _modules_of(*rooms: str) -> set[str]:
    folders = [LLMEMB / room for room in rooms] or [LLMEMB]
    files = [file for folder in folders for file in folder.rglob("*.py") if file.stem != "__init__"]
    assert len(files) >= len(folders)
    return {".".join(file.relative_to(LLMEMB.parent).with_suffix("").parts) for file in files}


def _loaded_by(*modules: str) -> set[str]:
    """The top-level packages that a fresh interpreter has after importing these."""
    script = f"import sys, {', '.join(modules)}; print(*{{name.split('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())
