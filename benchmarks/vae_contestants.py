r"""What ``benchmarks.vae --speed`` compares with the models of this package: the same losses, written by hand.

Each is what a careful person writes for this one model: plain modules, the terms of the densities that matter, sums
over a batch, no validation, fused Adam in a plain loop. Symbols are those of the models' docstrings. Every divergence
is the single-sample :math:`\log q(z | x) - \log p(z)`, whose constants cancel, as by default in the package.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

OFFSET = math.log(math.expm1(1 - 1e-3))
"""What makes a raw deviation of 0 a deviation of 1."""


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """A multilayer perceptron."""
    layers = [layer for n, m in pairwise(widths) for layer in (nn.Linear(n, m), activation())]
    return nn.Sequential(*layers[:-1])


def split(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Means and deviations."""
    loc, raw = theta.chunk(2, -1)
    return loc, 1e-3 + F.softplus(raw + OFFSET)


def draw(theta: Tensor, *shape: int) -> tuple[Tensor, Tensor]:
    """Draws of z, and log q(z | x) - log p(z) under a standard normal prior."""
    loc, scale = split(theta)
    noise = torch.randn(*shape, *loc.shape, device=loc.device)
    z = loc + scale * noise
    return z, (0.5 * (z * z - noise * noise) - scale.log()).sum(-1)


def cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    """-log p(x | z) of binary x, for each datum."""
    return F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def log_normal(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The log-density of a normal distribution, without its constant, summed over features."""
    return (-0.5 * ((value - loc) / scale) ** 2 - scale.log()).sum(-1)


class Hand(nn.Module):
    """An encoder and a decoder; subclasses combine them to a loss."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


class IWAE(Hand):
    """The importance-weighted bound; the ELBO for one draw."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, particles: int) -> None:
        super().__init__(encoder, decoder)
        self.particles = particles

    def forward(self, x: Tensor) -> Tensor:
        """Returns the loss."""
        z, divergence = draw(self.encoder(x), self.particles)
        log_w = -cross_entropy(self.decoder(z), x) - divergence
        return (math.log(self.particles) - log_w.logsumexp(0)).mean()


class TotalCorrelation(Hand):
    """The ELBO with the total correlation weighted, its estimate made on the batch."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, beta: float, data_size: int) -> None:
        super().__init__(encoder, decoder)
        self.beta, self.data_size = beta, data_size

    def forward(self, x: Tensor) -> Tensor:
        """Returns the loss; by minibatch-weighted sampling."""
        loc, scale = split(self.encoder(x))
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        divergence = (0.5 * (z * z - noise * noise) - scale.log()).sum(-1)
        pairs = -0.5 * ((z[:, None] - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)
        constant = math.log(len(x) * self.data_size)
        log_q = pairs.sum(-1).logsumexp(1) - constant
        log_marginals = (pairs.logsumexp(1) - constant).sum(-1)
        correlation = log_q - log_marginals
        return (cross_entropy(self.decoder(z), x) + divergence + (self.beta - 1) * correlation).mean()


class Discrepancy(Hand):
    """Half the divergence, and the maximum mean discrepancy by inverse multiquadratics of several widths."""

    def forward(self, x: Tensor) -> Tensor:
        """Returns the loss."""
        z, divergence = draw(self.encoder(x))
        y, n, width = torch.randn_like(z), len(z), z.shape[-1]
        points = torch.cat([z, y])
        squares = points.square().sum(-1)
        distances = (squares[:, None] + squares - 2 * points @ points.T).clamp(min=0)
        kernel = sum(2 * width * s / (2 * width * s + distances) for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0))
        off = 1 - torch.eye(n)
        same = ((kernel[:n, :n] + kernel[n:, n:]) * off).sum() / (n * (n - 1))
        squared = same - 2 * kernel[:n, n:].mean()
        return (cross_entropy(self.decoder(z), x) + 0.5 * divergence).mean() + 100 * squared


class Vamp(Hand):
    """The ELBO under the mixture of the posterior at K pseudo-inputs."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, features: int, pseudo_inputs: int) -> None:
        super().__init__(encoder, decoder)
        self.pseudo = nn.Parameter(torch.randn(pseudo_inputs, features))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the loss."""
        loc, scale = split(self.encoder(x))
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        log_q = (-0.5 * noise * noise - scale.log()).sum(-1)
        at, spread = split(self.encoder(torch.sigmoid(self.pseudo)))
        pairs = -0.5 * (((z[:, None] - at) / spread) ** 2).sum(-1) - spread.log().sum(-1)
        log_p = pairs.logsumexp(1) - math.log(len(self.pseudo))
        return (cross_entropy(self.decoder(z), x) + log_q - log_p).mean()


class Planar(Hand):
    """The ELBO of a posterior moved by planar layers, whose parameters come out of the encoder's last layer too."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latent: int, transforms: int) -> None:
        super().__init__(encoder, decoder)
        self.latent, self.transforms = latent, transforms

    def forward(self, x: Tensor) -> Tensor:
        """Returns the loss."""
        base, layers = self.encoder(x).split([2 * self.latent, self.transforms * (2 * self.latent + 1)], -1)
        loc, scale = split(base)
        noise = torch.randn_like(loc)
        z = loc + scale * noise
        log_q = (-0.5 * noise * noise - scale.log()).sum(-1)
        for theta in layers.chunk(self.transforms, -1):
            w, u, b = theta.split([self.latent, self.latent, 1], -1)
            inner = (w * u).sum(-1, keepdim=True)
            u = u + (F.softplus(inner) - 1 - inner) * w / (w * w).sum(-1, keepdim=True).clamp(min=1e-6)
            h = torch.tanh((w * z).sum(-1, keepdim=True) + b)
            log_q = log_q - ((1 - h * h) * (w * u).sum(-1, keepdim=True)).squeeze(-1).log1p()
            z = z + u * h
        return (cross_entropy(self.decoder(z), x) + log_q + 0.5 * (z * z).sum(-1)).mean()


class TwoLayers(nn.Module):
    """The ELBO of two stochastic layers, inferred from the bottom up or, as a ladder, from the top down."""

    def __init__(self, latents: tuple[int, int], hidden: int, features: int, ladder: bool) -> None:
        super().__init__()
        low, high = latents
        self.ladder = ladder
        self.up = mlp(features, hidden, hidden) if ladder else mlp(features, hidden, hidden, 2 * low)
        self.higher = mlp(hidden, hidden, hidden) if ladder else mlp(low, hidden, hidden, 2 * high)
        self.low, self.high = nn.Linear(hidden, 2 * low), nn.Linear(hidden, 2 * high)
        self.down = mlp(high, hidden, hidden, 2 * low)
        self.decoder = mlp(low, hidden, hidden, features)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the loss."""
        if not self.ladder:
            loc, scale = split(self.up(x))
            z = loc + scale * torch.randn_like(loc)
            top, divergence = draw(self.higher(z))
        else:
            d = torch.relu(self.up(x))
            top, divergence = draw(self.high(torch.relu(self.higher(d))))
        at, spread = split(self.down(top))
        if self.ladder:
            seen, width = split(self.low(d))
            variance = spread * spread + width * width
            loc, scale = seen + (at - seen) * (width * width / variance), spread * width / variance.sqrt()
            z = loc + scale * torch.randn_like(loc)
        divergence = divergence + log_normal(z, loc, scale) - log_normal(z, at, spread)
        return (cross_entropy(self.decoder(z), x) + divergence).mean()


class VQ(Hand):
    """Codes of M words of width d, the codebook by moving averages, scored by the frequencies of the words."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, codes: int, width: int, words: int) -> None:
        super().__init__(encoder, decoder)
        self.width = width
        self.register_buffer("table", torch.randn(codes, width))
        self.register_buffer("count", torch.ones(codes))
        self.register_buffer("total", self.table.clone())
        self.logits = nn.Parameter(torch.zeros(words, codes))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the loss, and moves the codebook."""
        h = self.encoder(x).unflatten(-1, (-1, self.width))
        distances = self.table.square().sum(-1) - 2 * h.detach() @ self.table.T
        k = distances.argmin(-1)
        e = self.table[k]
        with torch.no_grad():
            chosen = F.one_hot(k.flatten(), len(self.table)).to(h.dtype)
            self.count.lerp_(chosen.sum(0), 0.01)
            self.total.lerp_(chosen.T @ h.flatten(0, 1), 0.01)
            n = self.count.sum()
            share = (self.count + 1e-5) / (n + len(self.table) * 1e-5) * n
            self.table.copy_(self.total / share[:, None])
        z = h + (e - h).detach()
        commitment = 0.25 * (h - e).square().sum((-1, -2))
        log_p = self.logits.log_softmax(-1).expand(len(x), -1, -1).gather(-1, k[..., None]).sum((-1, -2))
        return (cross_entropy(self.decoder(z.flatten(-2)), x) + commitment - log_p).mean()


class Denoising(Hand):
    """The reconstruction error of data of which a share was set to zero."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, rate: float) -> None:
        super().__init__(encoder, decoder)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Returns the loss."""
        kept = (torch.rand_like(x) >= self.rate).to(x.dtype)
        return cross_entropy(self.decoder(self.encoder(kept * x)), x).mean()


class Conditional(Hand):
    """The ELBO given a class, the last numbers of a datum, which encoder, decoder and prior read."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, prior: nn.Module, classes: int) -> None:
        super().__init__(encoder, decoder)
        self.prior, self.classes = prior, classes

    def forward(self, data: Tensor) -> Tensor:
        """Returns the loss."""
        x, c = data[:, : -self.classes], data[:, -self.classes :]
        loc, scale = split(self.encoder(data))
        z = loc + scale * torch.randn_like(loc)
        divergence = log_normal(z, loc, scale) - log_normal(z, *split(self.prior(c)))
        return (cross_entropy(self.decoder(torch.cat([z, c], -1)), x) + divergence).mean()


class SemiSupervised(Hand):
    """The bounds summed over the classes of data without a label, -1 in their last number, and a cross-entropy."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, classifier: nn.Module, classes: int) -> None:
        super().__init__(encoder, decoder)
        self.classifier = classifier
        self.register_buffer("classes", torch.eye(classes))

    def forward(self, data: Tensor) -> Tensor:
        """Returns the loss."""
        x, label = data[:, :-1], data[:, -1].long()
        n, k = len(x), len(self.classes)
        each, c = x[:, None].expand(-1, k, -1), self.classes.expand(n, -1, -1)
        z, divergence = draw(self.encoder(torch.cat([each, c], -1)))
        bound = -cross_entropy(self.decoder(torch.cat([z, c], -1)), each) - divergence - math.log(k)
        log_q, known = self.classifier(x).log_softmax(-1), label >= 0
        taken = label.clamp(min=0)[:, None]
        labelled = bound.gather(1, taken).squeeze(1)
        rest = (log_q.exp() * (bound - log_q)).sum(-1)
        cross = F.nll_loss(log_q, label, ignore_index=-1)
        return 0.1 * cross - torch.where(known, labelled, rest).mean()


class Factor(Hand):
    """The ELBO and a critic's estimate of the total correlation; the two take turns, each with its optimizer."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, critic: nn.Module, gamma: float) -> None:
        super().__init__(encoder, decoder)
        self.critic, self.gamma = critic, gamma
        own = [*encoder.parameters(), *decoder.parameters()]
        self.optimizers = Adam(own, 1e-3, fused=True), Adam(critic.parameters(), 1e-4, betas=(0.5, 0.9), fused=True)

    def losses(self, x: Tensor) -> Iterator[Tensor]:
        """Yields the loss of either player, from the same weights of the encoder."""
        with torch.no_grad():
            z, other = (draw(self.encoder(x))[0] for _ in range(2))
            product = other.gather(0, torch.rand_like(other).argsort(0))
        yield F.softplus(-self.critic(z)).mean() + F.softplus(self.critic(product)).mean()
        z, divergence = draw(self.encoder(x))
        yield (cross_entropy(self.decoder(z), x) + divergence).mean() + self.gamma * self.critic(z).mean()

    def step(self, x: Tensor) -> Tensor:
        """Moves both players and returns the autoencoder's loss."""
        for loss, optimizer in zip(self.losses(x), reversed(self.optimizers), strict=True):
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        return loss.detach()


class MIWAE(Hand):
    """The importance-weighted bound of what is observed, by normal numbers."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, particles: int) -> None:
        super().__init__(encoder, decoder)
        self.particles = particles

    def forward(self, x: Tensor) -> Tensor:
        """Returns the loss."""
        missing = x.isnan()
        filled, seen = torch.where(missing, 0.0, x), (~missing).to(x.dtype)
        z, divergence = draw(self.encoder(torch.cat([filled, seen], -1)), self.particles)
        loc, scale = split(self.decoder(z))
        log_p = ((-0.5 * ((filled - loc) / scale) ** 2 - scale.log()) * seen).sum(-1)
        log_w = log_p - divergence - 0.5 * math.log(2 * math.pi) * seen.sum(-1)
        return (math.log(self.particles) - log_w.logsumexp(0)).mean()


class DeepMarkov(nn.Module):
    """The ELBO of a chain of latent states, its posterior read backwards by a recurrent network of PyTorch's."""

    def __init__(self, features: int, latent: int, hidden: int) -> None:
        super().__init__()
        self.rnn = nn.GRU(features, hidden, batch_first=True)
        self.start = nn.Parameter(torch.zeros(latent))
        self.gate, self.proposed = mlp(latent, hidden, latent), mlp(latent, hidden, latent)
        self.linear, self.scale = nn.Linear(latent, latent), nn.Linear(latent, latent)
        self.combine, self.read = nn.Linear(latent, hidden), nn.Linear(hidden, 2 * latent)
        self.emit = mlp(latent, hidden, features)

    def transition(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations of the next state."""
        g, h = torch.sigmoid(self.gate(z)), self.proposed(z)
        return (1 - g) * self.linear(z) + g * h, 1e-3 + F.softplus(self.scale(torch.relu(h)) + OFFSET)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the loss."""
        h = self.rnn(x.flip(1))[0].flip(1)
        z, log_q, states = self.start.expand(len(x), -1), 0.0, []
        for t in range(x.shape[1]):
            loc, scale = split(self.read(0.5 * (torch.tanh(self.combine(z)) + h[:, t])))
            noise = torch.randn_like(loc)
            z = loc + scale * noise
            log_q = log_q + (-0.5 * noise * noise - scale.log()).sum(-1)
            states.append(z)
        z = torch.stack(states, 1)
        before = torch.cat([self.start.expand(len(x), 1, -1), z[:, :-1]], 1)
        log_p = log_normal(z, *self.transition(before)).sum(-1)
        return (cross_entropy(self.emit(z), x).sum(-1) + log_q - log_p).mean()
