"""What has nothing to do with quantization: timing, progress bars."""
