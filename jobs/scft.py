"""Fine-tunes the language model on a catalogue: python jobs/scft.py --config FILE.yaml [section.key=value …]"""

from llmemb.job import main
from llmemb.scft.config import ScftConfig
from llmemb.scft.run import run_scft

if __name__ == "__main__":
    main(ScftConfig, run_scft)
