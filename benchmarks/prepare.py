"""How long ``prepare`` takes on generated interactions, and how much memory its largest process needs.

    python benchmarks/prepare.py [--interactions 5000000] [--files 8] [--folder DIR] [section.key=value …]

Writes Parquet files (or CSV) of interactions with a long tail, runs ``jobs/prepare.py`` on them as a user would, and
prints seconds and, for the driver and for Ray's workers, the highest resident memory that any one of them had.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import yaml

REPOSITORY = Path(__file__).resolve().parent.parent
ROWS_AT_ONCE = 1_000_000
MEAN_LENGTH = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--interactions", type=int, default=5_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--kind", choices=["parquet", "csv", "jsonl"], default="parquet")
    parser.add_argument("--folder", type=Path, help="kept and used again; a temporary one by default")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmemb-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        generate(folder / "source", arguments.interactions, arguments.items, arguments.files, arguments.kind)
        seconds, peaks = run(folder, arguments.overrides)
    print(f"{arguments.interactions:,} interactions: {seconds:.0f} s")
    for name, mib in sorted(peaks.items(), key=lambda entry: -entry[1])[:6]:
        print(f"  {name}: {mib:,.0f} MiB")


def generate(folder: Path, num_interactions: int, num_items: int, num_files: int, kind: str) -> None:
    """Interactions in no order: Zipf's popularity, geometric lengths, ids as long as Amazon's."""
    if (folder / "items.parquet").exists():
        return
    rng = np.random.default_rng(0)
    (folder / "interactions").mkdir(parents=True)
    item_ids = np.array([f"B{index:09d}" for index in rng.permutation(num_items)])
    weights = 1 / np.arange(1, num_items + 1) ** 0.8
    bounds = np.cumsum(weights) / weights.sum()
    for file in range(num_files):
        rows = num_interactions // num_files + (file < num_interactions % num_files)
        users = rng.integers(num_interactions // MEAN_LENGTH, size=rows)
        frame = pl.DataFrame(
            {
                "user_id": np.char.add("A", np.char.zfill(users.astype(str), 13)),
                "item_id": item_ids[np.minimum(np.searchsorted(bounds, rng.random(rows)), num_items - 1)],
                "timestamp": rng.integers(1_300_000_000, 1_600_000_000, rows),
            }
        )
        write = {"parquet": frame.write_parquet, "csv": frame.write_csv, "jsonl": frame.write_ndjson}[kind]
        write(folder / "interactions" / f"part-{file:04d}.{kind}")  # type: ignore[operator]
    titles = [f"Item {index}" for index in range(num_items)]
    pl.DataFrame({"item_id": item_ids, "title": titles}).write_parquet(folder / "items.parquet")


def run(folder: Path, overrides: list[str]) -> tuple[float, dict[str, float]]:
    """Seconds, and the highest resident MiB by process."""
    config = folder / "prepare.yaml"
    settings = {
        "items": str(folder / "source/items.parquet"),
        "interactions": str(folder / "source/interactions"),
        "output": str(folder / f"dataset-{time.time_ns()}"),
        "filters": {"min_user_interactions": 5, "min_item_interactions": 5},
    }
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, str(REPOSITORY / "jobs/prepare.py"), "--config", str(config), *overrides]
    # Ray's workers are no children of the job; its mark in their environment tells them from others'.
    mark = f"{os.getpid()}"
    environment = {**os.environ, "LLMEMB_BENCHMARK": mark}
    started = time.monotonic()
    process = subprocess.Popen(command, env=environment)
    peaks: dict[str, float] = {}
    while process.poll() is None:
        for name, mib in resident(mark, process.pid):
            peaks[name] = max(peaks.get(name, 0.0), mib)
        time.sleep(0.2)
    if process.returncode:
        sys.exit(process.returncode)
    return time.monotonic() - started, peaks


def resident(mark: str, driver: int) -> list[tuple[str, float]]:
    """Name and resident MiB of each process of the run, what it shares with others (Ray's object store) included."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("LLMEMB_BENCHMARK") != mark:
                continue
            memory = process.memory_info()
            title = "driver" if process.pid == driver else " ".join(process.cmdline()[:1])[:40]
            found.append((f"{title} {process.pid}", memory.rss / 2**20))
        except psutil.Error:
            continue
    return found


if __name__ == "__main__":
    main()
