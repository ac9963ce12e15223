"""Sessions: uint8 pictures in, logits out, whatever computes them."""
