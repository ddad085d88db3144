"""Training at several widths: steps, losses, metrics, samplers and freezing."""
