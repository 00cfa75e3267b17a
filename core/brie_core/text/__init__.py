"""Text to tokens and back: one tokenizer and one renderer for training, serving and export. It knows no weights."""
