"""From a plan to a file: reading, quantizing and writing side by side."""
