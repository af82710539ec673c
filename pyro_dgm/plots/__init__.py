"""Plots of models, data and training: arrays in, figure out.

Each function returns a `matplotlib.figure.Figure`; save it by `figure.savefig("name.png")`, or let a
notebook show it (after `%matplotlib inline`). Arrays may be torch tensors, with or without gradient and on
any device, or numpy.

- training: `learning_curves`
- densities and samples: `density_1d`, `density_2d`, `pair_plot`
- images: `image_grid`, `reconstructions`, `interpolation`, `latent_traversal`
- latents: `latent_space`
"""

from .curves import learning_curves
from .densities import density_1d, density_2d, pair_plot
from .images import image_grid, interpolation, latent_traversal, reconstructions
from .latent import latent_space

__all__ = [
    "density_1d",
    "density_2d",
    "image_grid",
    "interpolation",
    "latent_space",
    "latent_traversal",
    "learning_curves",
    "pair_plot",
    "reconstructions",
]
