"""Runs a night: python jobs/nightly.py --config FILE.yaml [section.key=value …]"""

from llmemb.job import main
from llmemb.nightly.config import NightlyConfig
from llmemb.nightly.run import run_nightly

if __name__ == "__main__":
    main(NightlyConfig, run_nightly)
