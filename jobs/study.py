"""Compares methods, takes LLMEmb apart: python jobs/study.py --config FILE.yaml [section.key=value …]"""

from llmemb.job import main
from llmemb.study.config import StudyConfig
from llmemb.study.run import run_study

if __name__ == "__main__":
    main(StudyConfig, run_study)
