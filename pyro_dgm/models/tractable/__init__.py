"""Models with an exact density: flows, and (to come) autoregressive models."""
