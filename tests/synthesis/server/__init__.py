"""A server on this machine that speaks the protocols of Anthropic and OpenAI: `__main__.py`."""
