"""Text encoders: a sentence-transformers folder, its tokenizer, its pooling, and batches through it."""
