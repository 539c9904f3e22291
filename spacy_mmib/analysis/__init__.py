"""What a trained pipeline does and why: its errors, what of a post reaches its latents, how far text and
pictures are apart (the paper's §V-B, §V-D and §V-E)."""
