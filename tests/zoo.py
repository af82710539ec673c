"""The zoo: every model of the package, small, with what is true of it; transforms are in ``zoo_transforms``.

One row feeds all generic tests; ``test_architecture`` fails when a public class has no row. Parameters are perturbed,
since at initialisation most transforms are the identity, which passes nearly every test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pyro.distributions.transforms as T
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_dgm import models as m
from pyro_dgm import transforms as t
from pyro_dgm.distributions import heads
from pyro_dgm.nn import ConvDecoder, ConvEncoder, GaussianNoise, MaskedMLP

D, C = 3, 2
IMAGE = (2, 3, 2)


def perturb(module: nn.Module, scale: float = 0.2) -> nn.Module:
    """Moves every parameter away from its initial value, the less the more it is amplified."""
    gains = {
        id(p): m.gains.view(-1, *[1] * (p.dim() - 1))
        for m in module.modules()
        if torch.is_tensor(getattr(m, "gains", None))
        for p in m.parameters(recurse=False)
    }
    with torch.no_grad():
        for p in module.parameters():
            noise = torch.randn(p.shape, dtype=p.dtype, device="cpu").to(p.device)
            p.add_(scale * noise / gains.get(id(p), 1.0))
    return module


@dataclass(frozen=True)
class ModelRow:
    """A model: ``make(context)`` builds it; ``conditional`` says whether it can take a context, or even must."""

    make: Callable[[int], nn.Module]
    density: str = "exact"
    conditional: bool | Literal["always"] = True
    discrete: bool = False
    storable: bool = True
    reconstructs: bool = False  # an implicit model that is trained by Reconstruction, not by a game
    walks: bool = False  # an implicit model that is trained by Walkback
    idle: str = "none"  # parameters under this name have no part in the log-density
    atol: float = 1e-5  # of a log-density in float32, where it depends on what it is batched with

    @property
    def contexts(self) -> list[int]:
        """The widths of context to test with."""
        return {True: [0, C], False: [0], "always": [C]}[self.conditional]

    def build(self, context: int = 0) -> nn.Module:
        torch.manual_seed(1)
        return perturb(self.make(context))

    def data(self, model: nn.Module, n: int = 6) -> Tensor:
        """Data in the model's support, whatever it is."""
        x = torch.randn(n, *model.event_shape)
        if self.discrete:
            return (x > 0).to(x)
        base = model.support.base_constraint if hasattr(model.support, "base_constraint") else model.support
        return torch.distributions.transform_to(base)(x)


def _vae(
    context: int, prior: nn.Module | None = None, posterior: nn.Module | None = None, cls: type = m.VAE, **settings
) -> nn.Module:
    return cls(
        prior or m.StandardNormal(2),
        m.DiagonalNormal(D, context=2 + context, hidden_features=(8,)),
        posterior or m.DiagonalNormal(2, context=D + context, hidden_features=(8,)),
        context,
        **settings,
    )


def _vamp_vae(context: int) -> nn.Module:
    q = m.DiagonalNormal(2, D + context, (8,))
    return _vae(context, m.VampPrior(q, D, 3, context), q)


def _conditional_vae(context: int) -> nn.Module:
    return m.ConditionalVAE(
        m.StandardNormal(2), m.DiagonalNormal(D, 2 + context, (8,)), m.DiagonalNormal(2, D + context, (8,)), context
    )


def _image_vae(context: int) -> m.VAE:
    shape, head = (2, 5, 3), heads.DiscretizedLogisticMixture(1, 4)
    decoder = ConvDecoder(2 + context, (3 * 2, 5, 3), channels=(3, 2), blocks=1)
    encoder = ConvEncoder(shape, 4, context, channels=(2, 4), blocks=1, hidden_features=5, groups=2)
    likelihood = m.Factorized(shape, head, 2 + context, network=decoder)
    return m.VAE(m.StandardNormal(2), likelihood, m.DiagonalNormal(2, 30 + context, network=encoder), context)


SMALL = {"transforms": 2, "hidden_features": (8,)}

MODELS: dict[str, ModelRow] = {
    "NICE": ModelRow(lambda c: m.NICE(D, c, **SMALL)),
    "RealNVP": ModelRow(lambda c: m.RealNVP(D, c, **SMALL)),
    "RealNVP-mask": ModelRow(lambda c: m.RealNVP(D, c, masks=[[True, False, False], [False, True, True]], **SMALL)),
    "RealNVP-positive": ModelRow(lambda c: m.RealNVP(D, c, support=constraints.positive, **SMALL)),
    "RealNVP-interval": ModelRow(lambda c: m.RealNVP(D, c, support=constraints.interval(-1.0, 2.0), **SMALL)),
    "RealNVP-logit": ModelRow(lambda c: m.RealNVP(D, c, support=t.Logit(0.05), **SMALL)),
    "RealNVP-simplex": ModelRow(lambda c: m.RealNVP(D, c, support=constraints.simplex, **SMALL)),
    "MAF": ModelRow(lambda c: m.MAF(D, c, **SMALL)),
    "MAF-1": ModelRow(lambda c: m.MAF(1, c, **SMALL)),
    "IAF": ModelRow(lambda c: m.IAF(D, c, **SMALL)),
    "NSF": ModelRow(lambda c: m.NSF(D, c, bins=4, **SMALL)),
    "NSF-autoregressive": ModelRow(lambda c: m.NSF(D, c, autoregressive=True, bins=4, activation=nn.SiLU, **SMALL)),
    "NSF-no-affine": ModelRow(lambda c: m.NSF(D, c, bins=4, affine=False, **SMALL)),
    "NCSF": ModelRow(lambda c: m.NCSF(2, c, bins=3, **SMALL)),
    "NCSF-autoregressive": ModelRow(
        lambda c: m.NCSF(D, c, autoregressive=True, transforms=1, bins=3, harmonics=2, hidden_features=(8,))
    ),
    "FFJORD": ModelRow(lambda c: m.FFJORD(D, c, hidden_features=(5, 4), activation=nn.Softplus, solver="rk4", steps=4)),
    "FFJORD-dopri5": ModelRow(lambda c: m.FFJORD(D, c, hidden_features=(6,), rtol=1e-9, atol=1e-9), atol=1e-4),
    "NormalizingFlow": ModelRow(
        lambda c: m.NormalizingFlow(D, [t.LULinear(D, c), t.Coupling([1, 0, 1], t.Spline(4), (8,), c)], c)
    ),
    "NormalizingFlow-pyro": ModelRow(
        lambda c: m.NormalizingFlow(
            D,
            [T.conditional_spline(D, c, count_bins=4) if c else T.spline_coupling(D, hidden_dims=[8]), t.LULinear(D)],
            c,
        ),
        storable=False,
    ),
    "MultiscaleRealNVP": ModelRow(
        lambda c: m.MultiscaleRealNVP((1, 4, 4), c, levels=2, transforms=1, hidden_channels=2, blocks=0)
    ),
    "Glow": ModelRow(lambda c: m.Glow((2, 4, 4), c, levels=2, transforms=1, hidden_channels=2)),
    "Glow-positions": ModelRow(
        lambda c: m.Glow((2, 4, 4), c, levels=2, transforms=1, hidden_channels=4, positions=True)
    ),
    "NAF": ModelRow(lambda c: m.NAF(D, c, units=3, **SMALL)),
    "NAF-sampling": ModelRow(
        lambda c: m.NAF(2, c, units=2, depth=2, fast="sampling", transforms=1, hidden_features=(8,))
    ),
    "SOSPF": ModelRow(lambda c: m.SOSPF(D, c, polynomials=2, degree=2, **SMALL)),
    "BNAF": ModelRow(lambda c: m.BNAF(D, c, hidden_factors=(3, 2))),
    "BNAF-sampling": ModelRow(lambda c: m.BNAF(2, c, hidden_factors=(3,), transforms=1, fast="sampling")),
    "GaussianizationFlow": ModelRow(lambda c: m.GaussianizationFlow(D, c, transforms=2, components=3)),
    "StandardNormal": ModelRow(lambda c: m.StandardNormal((D,)), conditional=False),
    "DiagonalNormal": ModelRow(lambda c: m.DiagonalNormal((1, D), c, (8,))),
    "DiagonalNormal-shared": ModelRow(lambda c: m.DiagonalNormal(D, c, (8,), shared_scale=True)),
    "IndependentBernoulli": ModelRow(lambda c: m.IndependentBernoulli((D,), c, (8,)), discrete=True),
    "Factorized": ModelRow(lambda c: m.Factorized((1, D), heads.ContinuousBernoulli(), c, (8,))),
    "Factorized-known": ModelRow(lambda c: m.Factorized(D, heads.Normal(scale=0.5), c, ())),
    "Factorized-mixture": ModelRow(lambda c: m.Factorized(D, heads.LogisticMixture(2), c, (8,))),
    "Factorized-Poisson": ModelRow(lambda c: m.Factorized((D, 1), heads.Poisson(), c, (8,)), discrete=True),
    "Factorized-counts": ModelRow(
        lambda c: m.Factorized(D, heads.NegativeBinomial(), c, (8,), shared=(D,)), discrete=True
    ),
    "Factorized-levels": ModelRow(
        lambda c: m.Factorized((1, 2, 2), heads.DiscretizedLogisticMixture(2, 4), c, (8,)), discrete=True
    ),
    "Factorized-columns": ModelRow(
        lambda c: m.Factorized(
            3, heads.Columns([heads.Categorical(3), heads.NegativeBinomial(), heads.Bernoulli()]), c, (8,)
        ),
        discrete=True,
    ),
    "Mixture": ModelRow(lambda c: m.Mixture([m.RealNVP(D, c, **SMALL), m.MAF(D, c, **SMALL)])),
    "VAE": ModelRow(_vae, "lower_bound"),
    "VAE-flows": ModelRow(
        lambda c: _vae(c, m.NSF(2, bins=4, **SMALL), m.IAF(2, D + c, **SMALL), num_particles=3), "lower_bound"
    ),
    "VAE-conditional-prior": ModelRow(
        lambda c: _vae(c, m.DiagonalNormal(2, c, (8,)), m.RealNVP(2, D + c, **SMALL)), "lower_bound"
    ),
    "Autoencoder": ModelRow(
        lambda c: m.Autoencoder(m.StandardNormal(2), m.DiagonalNormal(D, 2 + c, (8,)), None, c, (8,), nn.Tanh),
        "implicit",
        reconstructs=True,
    ),
    "Autoencoder-binary": ModelRow(
        lambda c: m.Autoencoder(
            m.MAF((2,), c, **SMALL), m.IndependentBernoulli((1, D), 2 + c, (8,)), None, c, (8,), nn.Sigmoid
        ),
        "implicit",
        discrete=True,
        reconstructs=True,
    ),
    "VQVAE": ModelRow(
        lambda c: m.VQVAE(
            m.MADE(2, c, hidden_features=(8,), head=heads.Categorical(3)), m.DiagonalNormal(D, 4 + c, (8,)), 2, None, c
        ),
        "lower_bound",
    ),
    "VQVAE-grid": ModelRow(
        lambda c: m.VQVAE(
            m.PixelCNN((1, 2, 2), c, hidden_channels=3, blocks=1, kernel_size=3, head=heads.Categorical(3)),
            m.IndependentBernoulli((1, 2, 3), 8 + c, (8,)),
            2,
            None,
            c,
            (8,),
        ),
        "lower_bound",
        discrete=True,
    ),
    "LadderVAE": ModelRow(
        lambda c: m.LadderVAE((3, 2, 2), m.DiagonalNormal(D, 3 + c, (8,)), (6,), context=c), "lower_bound"
    ),
    "HierarchicalVAE": ModelRow(
        lambda c: m.HierarchicalVAE((3, 2), m.IndependentBernoulli(D, 3 + c, (8,)), ((6, 5), (4,)), nn.Tanh, c, 2),
        "lower_bound",
        discrete=True,
    ),
    "HierarchicalVAE-parts": ModelRow(
        lambda c: m.HierarchicalVAE(
            (2, 1),
            m.DiagonalNormal(D, 2 + c, (8,)),
            context=c,
            prior=[m.RealNVP(2, 1 + c, **SMALL), m.DiagonalNormal(1, c, (4,))],
            posterior=[m.IAF(2, D + c, **SMALL), m.DiagonalNormal(1, 2 + c, (4,))],
        ),
        "lower_bound",
    ),
    "DeepMarkovModel": ModelRow(
        lambda c: m.DeepMarkovModel(3, 2, m.DiagonalNormal(2, 2 + c, (6,)), c, (6,), 5), "lower_bound"
    ),
    "DeepMarkovModel-missing": ModelRow(
        lambda c: m.DeepMarkovModel(3, 2, m.IndependentBernoulli(2, 2 + c, (6,)), c, (6,), 5, 2, missing=True),
        "lower_bound",
        discrete=True,
    ),
    "VAE-vamp": ModelRow(_vamp_vae, "lower_bound"),
    "VAE-mixture": ModelRow(lambda c: _vae(c, m.GaussianMixture(2, 3)), "lower_bound"),
    "VAE-planar": ModelRow(
        lambda c: _vae(
            c, None, m.NormalizingFlow(2, [t.Planar(2, D + c)], D + c, base=m.DiagonalNormal(2, D + c, (8,)))
        ),
        "lower_bound",
    ),
    "BetaVAE": ModelRow(lambda c: _vae(c, cls=m.BetaVAE, beta=3.0), "lower_bound"),
    "BetaTCVAE": ModelRow(lambda c: _vae(c, cls=m.BetaTCVAE, data_size=50), "lower_bound"),
    "FactorVAE": ModelRow(lambda c: _vae(c, cls=m.FactorVAE, hidden_features=(8,)), "lower_bound", idle="critic"),
    "InfoVAE": ModelRow(lambda c: _vae(c, cls=m.InfoVAE), "lower_bound"),
    "AdversarialAutoencoder": ModelRow(
        lambda c: _vae(c, cls=m.AdversarialAutoencoder, hidden_features=(8,)), "lower_bound", idle="critic"
    ),
    "AdversarialVariationalBayes": ModelRow(
        lambda c: m.AdversarialVariationalBayes(
            m.StandardNormal(2), m.DiagonalNormal(D, 2 + c, (8,)), None, c, noise_features=2, hidden_features=(8,)
        ),
        "lower_bound",
        idle="critic",
    ),
    "ConditionalVAE": ModelRow(_conditional_vae, "lower_bound", conditional="always"),
    "SemiSupervisedVAE": ModelRow(
        lambda c: m.SemiSupervisedVAE(_conditional_vae(3), hidden_features=(8,)),
        "lower_bound",
        conditional=False,
        idle="classifier",
    ),
    "VampPrior": ModelRow(lambda c: m.VampPrior(m.DiagonalNormal(D, D + c, (8,)), D, 3, c)),
    "GaussianMixture": ModelRow(lambda c: m.GaussianMixture((1, D), 3, c, (8,))),
    "VAE-images": ModelRow(lambda c: _image_vae(c), "lower_bound", discrete=True),
    "Dequantized": ModelRow(
        lambda c: m.Dequantized(m.RealNVP(D, c, support=constraints.unit_interval, **SMALL), 2),
        "lower_bound",
        discrete=True,
    ),
    "Dequantized-variational": ModelRow(
        lambda c: m.Dequantized(
            m.MultiscaleRealNVP((1, 2, 2), c, levels=1, transforms=1, hidden_channels=4, support=t.Logit(0.05)),
            5,
            m.RealNVP(4, 4 + c, support=constraints.unit_interval, **SMALL),
            num_particles=3,
        ),
        "lower_bound",
        discrete=True,
    ),
    "MIWAE": ModelRow(lambda c: m.MIWAE(D, 2, c, (8,), num_particles=3), "lower_bound"),
    "MIWAE-columns": ModelRow(
        lambda c: m.MIWAE(
            D,
            2,
            c,
            (8,),
            head=heads.Columns([heads.Categorical(3), heads.StudentT(), heads.Bernoulli()]),
            posterior=m.IAF(2, D * 4 + c, activation=nn.Tanh, **SMALL),
        ),
        "lower_bound",
        discrete=True,
    ),
    "NotMIWAE": ModelRow(lambda c: m.NotMIWAE((1, D), 2, c, (8,), sign=[1, -1, 1], num_particles=3), "lower_bound"),
    "NotMIWAE-mask": ModelRow(
        lambda c: m.NotMIWAE(
            D, 2, c, (8,), mask=m.IndependentBernoulli(D, D + c, (4,)), prior=m.NSF(2, bins=4, **SMALL)
        ),
        "lower_bound",
    ),
    "FVBN": ModelRow(lambda c: m.FVBN(4, c), discrete=True),
    "FVBN-1": ModelRow(lambda c: m.FVBN(1, c), discrete=True),
    "MADE": ModelRow(lambda c: m.MADE(4, c, hidden_features=(8, 6), order=[2, 0, 3, 1]), discrete=True),
    "MADE-masks": ModelRow(
        lambda c: m.MADE(4, c, hidden_features=(6, 6), masks=3, random_order=True, residual=True), discrete=True
    ),
    "MADE-mixture": ModelRow(lambda c: m.MADE(D, c, hidden_features=(8,), head=heads.LogisticMixture(2))),
    "MADE-spline": ModelRow(lambda c: m.MADE(D, c, hidden_features=(8,), head=heads.Monotone(t.Spline(4)))),
    "MADE-columns": ModelRow(
        lambda c: m.MADE(
            3, c, hidden_features=(8,), head=heads.Columns([heads.Categorical(3), heads.Normal(), heads.Bernoulli()])
        ),
        discrete=True,
    ),
    "MADE-counts": ModelRow(
        lambda c: m.MADE(
            3,
            c,
            hidden_features=(8,),
            head=heads.Columns([heads.NegativeBinomial(), heads.ContinuousBernoulli(), heads.Poisson()]),
        ),
        discrete=True,
    ),
    "NADE": ModelRow(lambda c: m.NADE(4, c, hidden_features=6, order=[2, 0, 3, 1]), discrete=True),
    "NADE-levels": ModelRow(
        lambda c: m.NADE(3, c, hidden_features=6, head=heads.DiscretizedLogisticMixture(2, 4)), discrete=True
    ),
    "RNADE": ModelRow(lambda c: m.RNADE(D, c, components=2, hidden_features=6)),
    "EoNADE": ModelRow(lambda c: m.EoNADE(4, c, hidden_features=(6,), orders=2), discrete=True),
    "EoNADE-deep": ModelRow(lambda c: m.EoNADE(4, c, hidden_features=(6, 5), orders=2), discrete=True),
    "ConvNADE": ModelRow(lambda c: m.ConvNADE((1, 2, 2), c, hidden_channels=4, blocks=1), discrete=True),
    "PixelCNN": ModelRow(lambda c: m.PixelCNN((1, 3, 2), c, hidden_channels=3, blocks=1, kernel_size=3), discrete=True),
    "PixelCNN-colours": ModelRow(
        lambda c: m.PixelCNN((2, 2, 2), c, hidden_channels=3, blocks=1, head=heads.Categorical(3)), discrete=True
    ),
    "PixelCNN-mixture": ModelRow(
        lambda c: m.PixelCNN(
            (1, 1, D), c, hidden_channels=3, blocks=1, kernel_size=3, head=heads.LogisticMixture(2), activation=nn.SiLU
        )
    ),
    "GatedPixelCNN": ModelRow(lambda c: m.GatedPixelCNN((1, 3, 2), c, hidden_channels=3, layers=2), discrete=True),
    "GatedPixelCNN-colours": ModelRow(
        lambda c: m.GatedPixelCNN(
            (2, 2, 2), c, hidden_channels=3, layers=2, head=heads.DiscretizedLogisticMixture(2, 3)
        ),
        discrete=True,
    ),
    "PixelCNNPlusPlus": ModelRow(
        lambda c: m.PixelCNNPlusPlus((1, 2, 4), c, hidden_channels=3, blocks=1, levels=2, head=heads.Bernoulli()),
        discrete=True,
    ),
    "PixelCNNPlusPlus-colours": ModelRow(
        lambda c: m.PixelCNNPlusPlus(
            (3, 2, 2), c, hidden_channels=3, blocks=1, levels=1, head=heads.DiscretizedLogisticMixture(2, 4)
        ),
        discrete=True,
    ),
    "PixelRNN": ModelRow(
        lambda c: m.PixelRNN((2, 2, 2), c, hidden_channels=4, blocks=2, out_channels=8, kernel_size=3), discrete=True
    ),
    "PixelRNN-row": ModelRow(
        lambda c: m.PixelRNN(
            (1, 3, 2),
            c,
            kind="row",
            hidden_channels=3,
            blocks=1,
            out_channels=8,
            head=heads.Categorical(3, ordered=True),
        ),
        discrete=True,
    ),
    "CausalTransformer": ModelRow(
        lambda c: m.CausalTransformer((2, 2, 2), c, width=8, blocks=2, attention_heads=2, mlp_features=8), discrete=True
    ),
    "CausalTransformer-vector": ModelRow(
        lambda c: m.CausalTransformer(D, c, width=4, blocks=1, attention_heads=2, order=[2, 0, 1], head=heads.Normal())
    ),
    "Autoregressive": ModelRow(
        lambda c: m.Autoregressive(MaskedMLP(D, 2, (8,), context=c, activation=nn.Tanh), heads.Normal(), c),
        storable=False,
    ),
    "RBM": ModelRow(lambda c: m.RBM(D, 2), conditional=False, discrete=True),
    "DBM": ModelRow(lambda c: m.DBM(4, (3, 2), mean_field_steps=3), "lower_bound", conditional=False, discrete=True),
    "DBN": ModelRow(lambda c: m.DBN([m.RBM(4, 3), m.RBM(3, 2)]), "lower_bound", conditional=False, discrete=True),
    "BoltzmannMachine": ModelRow(
        lambda c: m.BoltzmannMachine(3, 2, mean_field_steps=2), "lower_bound", conditional=False, discrete=True
    ),
    "ConditionalRBM": ModelRow(lambda c: m.ConditionalRBM(4, 3, c), conditional="always", discrete=True),
    "ConvolutionalRBM": ModelRow(
        lambda c: m.ConvolutionalRBM((1, 3, 3), 2, 2, pool=2), conditional=False, discrete=True
    ),
    "EnergyModel": ModelRow(lambda c: m.EnergyModel(2, c, (4,))),
    "GAN": ModelRow(lambda c: m.GAN((1, D), 2, c, (8,)), "implicit"),
    "DCGAN": ModelRow(lambda c: m.DCGAN((1, 5, 6), 2, c, 2), "implicit"),
    "BiGAN": ModelRow(lambda c: m.BiGAN((1, D), 2, c, (8,), stochastic=True), "implicit"),
    "VAEGAN": ModelRow(lambda c: m.VAEGAN((1, D), 2, c, (8,)), "implicit"),
    "ACGAN": ModelRow(lambda c: m.ACGAN(D, 2, c, (8,)), "implicit", "always"),
    "InfoGAN": ModelRow(lambda c: m.InfoGAN(D, 2, (3,), 1, (8,)), "implicit", False),
    "WGANGP": ModelRow(lambda c: m.WGANGP((1, 5, 6), 2, c, 2), "implicit"),
    "SNGAN": ModelRow(lambda c: m.SNGAN((1, 9, 5), 2, c, 2, attention=5), "implicit"),
    "GSN": ModelRow(lambda c: m.GSN((1, D), (4, 2), c, burn_in=2), "implicit", discrete=True, walks=True),
    "DenoisingAutoencoder": ModelRow(
        lambda c: m.DenoisingAutoencoder(m.DiagonalNormal(D, D + c, (4,)), GaussianNoise(0.5), c, burn_in=2),
        "implicit",
        walks=True,
    ),
    "GAN-interval": ModelRow(lambda c: m.GAN(D, 2, c, (8,), support=constraints.unit_interval), "implicit"),
}

SCORED = {name: row for name, row in MODELS.items() if row.density != "implicit"}
EXACT = {name: row for name, row in MODELS.items() if row.density == "exact"}
CONTINUOUS = {name: row for name, row in EXACT.items() if not row.discrete}


class TwoLayers(nn.Module):
    """A field as a user would write one."""

    def __init__(self, features: int, context: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features + context + 1, 6), nn.SiLU(), nn.Linear(6, features))

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        parts = [x, t.expand(*x.shape[:-1], 1)]
        parts += [] if context is None else [context.expand(*x.shape[:-1], -1)]
        return self.layers(torch.cat(parts, -1))
