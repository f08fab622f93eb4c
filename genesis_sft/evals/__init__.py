"""What a model can do, measured the same way before and after."""
