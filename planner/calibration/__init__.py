"""Measure a device, or read measurements, and fit the few parameters of its kernels."""
