"""Stage 3: the base model is fine-tuned once as an elastic super-network (paper, section 2.1)."""
