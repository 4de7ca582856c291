"""Static quantization: prepare, calibrate, convert."""
