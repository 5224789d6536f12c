"""How much of the gap to a sentence encoder SCFT closes for a model that is none yet, on Amazon Beauty.

    PYTHONPATH=. python benchmarks/scft_gap.py --dataset runs/beauty/dataset --output runs/beauty/scft-gap [key=value …]

MiniLM with its last two layers drawn anew (weights normal with deviation 0.02, biases 0, LayerNorms the identity) still
reads words, and nobody has taught it to compare texts. SCFT trains all its weights with the beauty preset; the gap is
what MiniLM as it is has more of next-item NDCG@10 than that model before any step. Run again, it goes on.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.embed import ENCODER
from llmemb.encoder.folder import local_folder
from llmemb.scft.config import ScftConfig
from llmemb.scft.run import run_scft

PRESET = "jobs/configs/beauty/scft.yaml"
METRIC = "next_item_ndcg@10"
FULL = ("tuning=full", "optimizer.learning_rate=2e-4")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=2, help="how many of the last are drawn anew (%(default)s)")
    parser.add_argument("overrides", nargs="*", help="of the beauty preset of scft")
    arguments = parser.parse_args()
    base = arguments.output / "base"
    if not base.exists():
        unfinished = base.with_name("unfinished")
        draw_anew(unfinished, arguments.layers)
        unfinished.rename(base)
    trained = {"base_model": base, "output": arguments.output / "encoder"}
    untouched = {"output": arguments.output / "minilm", "max_steps": 1}
    target = checks(arguments.dataset, untouched, ())[0]
    steps = checks(arguments.dataset, trained, (*FULL, *arguments.overrides))
    first, best, aim = steps[0][METRIC], max(steps, key=lambda check: check[METRIC]), target[METRIC]
    for check in steps:
        figures = ", ".join(f"{key} {value:.4f}" for key, value in check.items() if key != "step")
        print(f"step {check['step']}: {figures}")
    print(f"{METRIC}: {first:.4f} before, {best[METRIC]:.4f} at step {best['step']}, MiniLM as it is {aim:.4f}")
    print(f"closed: {(best[METRIC] - first) / (aim - first):.0%} of the gap of {aim - first:.4f}")


def draw_anew(folder: Path, num_layers: int) -> None:
    """Copies MiniLM with its last layers' weights drawn anew, from seed 0."""
    with local_folder(ENCODER) as path:
        shutil.copytree(path, folder, dirs_exist_ok=True)
    weights = load_file(folder / "model.safetensors")
    layers = {int(name.split("encoder.layer.")[1].split(".")[0]) for name in weights if "encoder.layer." in name}
    drawn = tuple(f"encoder.layer.{layer}." for layer in sorted(layers)[-num_layers:])
    generator = torch.Generator().manual_seed(0)
    for name, weight in weights.items():
        if any(prefix in name for prefix in drawn):
            if name.endswith("bias"):
                weight.zero_()
            elif "LayerNorm" in name:
                weight.fill_(1)
            else:
                weight.normal_(0, 0.02, generator=generator)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def checks(dataset: str, values: dict[str, object], overrides: tuple[str, ...]) -> list[dict[str, float]]:
    """What the job's checks found, from step 0 on."""
    given = [f"dataset={dataset}", *(f"{key}={value}" for key, value in values.items())]
    config = ScftConfig.load(PRESET, [*given, *overrides])
    run_scft(config)
    lines = (Path(config.output) / "history.jsonl").read_text().splitlines()
    return [check for line in lines if METRIC in (check := json.loads(line))]


if __name__ == "__main__":
    main()
