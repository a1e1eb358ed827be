"""What a kernel log line says: one tokenizer, one parser per family, pure functions."""
