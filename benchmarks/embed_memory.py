"""The memory of the embed job's driver and workers at two sizes of the catalogue.

    PYTHONPATH=. python benchmarks/embed_memory.py [NUM_ITEMS …]

Generates the catalogues and a tiny encoder, runs the job for each in a process of its own, and samples the resident
memory of each process. ``private`` leaves out what it shares, above all Ray's object store, whose size is fixed.
"""

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import psutil

from llmemb.buckets import num_buckets
from tests.generated import hashed_titles, write_catalogue, write_tiny_encoder

MIB = 2**20
SAMPLE_SECONDS = 0.5
Peaks = dict[str, tuple[int, int]]


def main(sizes: list[int]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        encoder = write_tiny_encoder(folder / "encoder")
        measured = {size: measure(size, encoder, folder / str(size)) for size in sizes}
    roles = sorted(set.intersection(*(set(peaks) for _, peaks in measured.values())))
    print(f"{'peak MiB, resident (private)':<36}" + "".join(f"{size:>22,}" for size in sizes) + f"{'ratio':>16}")
    for role in roles:
        peaks = [measured[size][1][role] for size in sizes]
        shown = "".join(f"{resident // MIB:>12,} {f'({private // MIB:,})':>9}" for resident, private in peaks)
        print(f"{role:<36}{shown}{peaks[-1][0] / peaks[0][0]:>9.2f} ({peaks[-1][1] / peaks[0][1]:.2f})")
    print(f"{'seconds':<36}" + "".join(f"{measured[size][0]:>22,.0f}" for size in sizes))


def measure(size: int, encoder: Path, folder: Path) -> tuple[float, Peaks]:
    """Seconds of the job, and per role the highest resident and private bytes of one of its processes."""
    num_files = num_buckets(size, items_per_bucket=16384, at_least=8)
    dataset = write_catalogue(folder / "dataset", dict(hashed_titles(size)), num_files=num_files)
    config = folder / "embed.yaml"
    config.write_text(
        f"dataset: {dataset}\nencoder: {encoder}\noutput: {folder}/embeddings\nnum_workers: 2\n"
        "prompt: {attributes: [title]}\n"
    )
    started = time.monotonic()
    job = subprocess.Popen([sys.executable, "jobs/embed.py", "--config", str(config)])
    peaks: Peaks = defaultdict(lambda: (0, 0))
    while job.poll() is None:
        for role, resident, private in _sample(job.pid):
            peaks[role] = (max(peaks[role][0], resident), max(peaks[role][1], private))
        time.sleep(SAMPLE_SECONDS)
    if job.returncode:
        raise RuntimeError(f"the job ended with {job.returncode}")
    return time.monotonic() - started, dict(peaks)


def _sample(pid: int) -> list[tuple[str, int, int]]:
    found = []
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    for process in processes:
        try:
            title = process.cmdline()[0] if process.pid != pid else "driver"
            memory = process.memory_info()
        except (psutil.NoSuchProcess, psutil.AccessDenied, IndexError):
            continue
        if title == "driver" or title.startswith("ray::"):
            role = title.removeprefix("ray::").split(".")[0]
            found.append((role, memory.rss, memory.rss - memory.shared))
    return found


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [100_000, 1_000_000])
