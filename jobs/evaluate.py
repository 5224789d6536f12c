"""Compares recommenders: python jobs/evaluate.py --config FILE.yaml [section.key=value …]"""

from llmemb.evaluation.config import EvaluateConfig
from llmemb.evaluation.evaluate import run_evaluate
from llmemb.job import main

if __name__ == "__main__":
    main(EvaluateConfig, run_evaluate)
