"""Looking at models: what to quantize, and what quantization did to them."""
