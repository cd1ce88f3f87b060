"""SAM: checkpoints, the image encoder, the decoder, and the small one that ships with the package."""
