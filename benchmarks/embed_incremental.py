"""What a second night costs: little changed, and nothing.

    PYTHONPATH=. python benchmarks/embed_incremental.py [--items 200000] [--encoder FOLDER] [--real-items 3000]

Three runs of the job in one root: the whole catalogue; 1 % of its items changed, 1 % new, 1 % deleted; then every item
file rewritten with another attribute that is not in the prompt, so that everything is compared and nothing encoded.

The encoder is a tiny random one by default, so that the first run is mostly start-up. What these nights are to MiniLM
is derived: its rate on ``--real-items`` of the same titles is measured, and the whole catalogue's time follows from it.
The titles have a dozen tokens; those of real items more, and then the second night is less of the first.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.embed import ENCODER, job_rate
from llmemb.buckets import num_buckets
from tests.generated import hashed_titles, write_catalogue, write_tiny_encoder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--encoder", help="a tiny random one by default")
    parser.add_argument("--real-items", type=int, default=3000, help="0 for none")
    arguments = parser.parse_args()
    size, share = arguments.items, arguments.items // 100
    first = dict(hashed_titles(size))
    second = dict(list(first.items())[share:])
    second |= hashed_titles(share, start=share, night=1)
    second |= hashed_titles(share, start=size)
    nights = {"whole": (first, 0), "1 % changed, 1 % new, 1 % deleted": (second, 0), "unchanged": (second, 1)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        encoder = arguments.encoder or str(write_tiny_encoder(folder / "encoder"))
        took: list[float] = []
        for night, (titles, rank) in nights.items():
            elapsed, manifest = run(titles, rank, encoder, folder)
            took.append(elapsed)
            encoded, counts = manifest["encoded"]["items"], manifest["counts"]
            print(f"{night}: {elapsed:,.0f} s ({elapsed / took[0]:.1%}), encoded {encoded:,} ({encoded / size:.2%})")
            print(f"  {counts}", flush=True)
        if arguments.real_items:
            print_derived(first, took[-1], arguments.real_items, folder)


def print_derived(titles: dict[str, str], unchanged: float, num_items: int, folder: Path) -> None:
    """What the unchanged night is of a whole one with MiniLM, whose rate is measured on some of the titles."""
    dataset = write_catalogue(folder / "real", dict(list(titles.items())[:num_items]))
    rate = job_rate(dataset, ENCODER, folder)
    whole = len(titles) / rate
    print(f"MiniLM, measured on {num_items:,} of these items: {rate:,.0f} items/s")
    print(
        f"  so the whole catalogue takes {whole:,.0f} s and more, and the unchanged night {unchanged / whole:.1%} of it"
    )


def run(titles: dict[str, str], rank: int, encoder: str, folder: Path) -> tuple[float, dict]:
    """Seconds of the job, start-up and all, and the manifest that it published."""
    num_files = num_buckets(len(titles), items_per_bucket=16384, at_least=8)
    dataset = write_catalogue(folder / "dataset", titles, num_files=num_files, sales_rank=[rank] * len(titles))
    config = folder / "embed.yaml"
    config.write_text(
        f"dataset: {dataset}\nencoder: {encoder}\noutput: {folder}/embeddings\nprompt: {{attributes: [title]}}\n"
    )
    started = time.monotonic()
    subprocess.run([sys.executable, "jobs/embed.py", "--config", str(config)], stdout=subprocess.DEVNULL, check=True)
    elapsed = time.monotonic() - started
    snapshot = folder / "embeddings" / (folder / "embeddings" / "LATEST").read_text().strip()
    return elapsed, json.loads((snapshot / "manifest.json").read_text())


if __name__ == "__main__":
    main()
