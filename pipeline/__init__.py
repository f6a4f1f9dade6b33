"""Fine-tune Vision Transformers with the Hugging Face Trainer, and score them honestly."""
