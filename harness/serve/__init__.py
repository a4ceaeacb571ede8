"""`harness serve`: a local server that speaks the OpenAI chat and fine-tuning protocol."""
