"""From stored tensors of a Llama-style pretraining run to a proven Hugging Face model."""
