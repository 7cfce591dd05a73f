"""One Ray actor a device."""
