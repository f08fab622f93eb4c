"""Weights on disk, read safely and one tensor at a time: PyTorch DCP folders, ``.pt`` files, safetensors."""
