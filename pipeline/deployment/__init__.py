"""What others run: exported models."""
