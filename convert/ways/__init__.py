"""The two ways to prepare a conversion: with text run through the model, and without."""
