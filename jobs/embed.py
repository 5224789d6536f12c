"""Embeds a catalogue: python jobs/embed.py --config FILE.yaml [section.key=value …]"""

from llmemb.embed.config import EmbedConfig
from llmemb.embed.pipeline import run_embed
from llmemb.job import main

if __name__ == "__main__":
    main(EmbedConfig, run_embed)
