"""Training at several widths: what a step runs, minimizes, measures, leaves alone."""
