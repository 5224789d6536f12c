"""Trains a recommender: python jobs/rat.py --config FILE.yaml [section.key=value …]"""

from llmemb.job import main
from llmemb.rat.config import RatConfig
from llmemb.rat.run import run_rat

if __name__ == "__main__":
    main(RatConfig, run_rat)
