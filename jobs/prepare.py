"""Makes a dataset of a catalogue and its interactions."""

from llmemb.data.config import PrepareConfig
from llmemb.data.prepare import run_prepare
from llmemb.job import main

if __name__ == "__main__":
    main(PrepareConfig, run_prepare)
