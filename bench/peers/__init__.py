"""octavo beside other libraries, layer by layer."""
