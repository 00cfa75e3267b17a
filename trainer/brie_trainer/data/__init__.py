"""Training data: rows of any common form to token ids with their labels, and a report on them. It knows no model."""
