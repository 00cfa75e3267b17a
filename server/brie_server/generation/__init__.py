"""Text in, text out: prompts to tokens, tokens to text, names to adapter versions. It knows no HTTP and no schema."""
