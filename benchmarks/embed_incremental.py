"""What a second night costs: little changed, and nothing.

    PYTHONPATH=. python benchmarks/embed_incremental.py [--items 200000] [--encoder FOLDER]

Three runs of the job in one root: the whole catalogue; 1 % of its items changed, 1 % new, 1 % deleted; then every item
file rewritten with another attribute that is not in the prompt, so that everything is compared and nothing encoded.

The encoder is MiniLM, and the titles have a dozen tokens; those of real items have more, and then the other nights are
less of the first.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.embed import ENCODER
from llmemb.buckets import num_buckets
from tests.generated import hashed_titles, write_catalogue


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--encoder", default=ENCODER)
    arguments = parser.parse_args()
    size, share = arguments.items, arguments.items // 100
    first = dict(hashed_titles(size))
    second = dict(list(first.items())[share:])
    second |= hashed_titles(share, start=share, night=1)
    second |= hashed_titles(share, start=size)
    nights = {"whole": (first, 0), "1 % changed, 1 % new, 1 % deleted": (second, 0), "unchanged": (second, 1)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        took: list[float] = []
        for night, (titles, rank) in nights.items():
            elapsed, manifest = run(titles, rank, arguments.encoder, folder)
            took.append(elapsed)
            encoded, counts = manifest["encoded"]["items"], manifest["counts"]
            print(f"{night}: {elapsed:,.0f} s ({elapsed / took[0]:.1%}), encoded {encoded:,} ({encoded / size:.2%})")
            print(f"  {counts}", flush=True)


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
