"""SCFT, supervised contrastive fine-tuning: teaches a language model to tell items apart by their attributes."""
