"""Networks between images and vectors: shapes, contexts, starts, storage, and one autoencoder that learns."""

import pytest
import torch
from torch import nn

import pyro_dgm
from pyro_dgm import fit
from pyro_dgm import models as m
from pyro_dgm.distributions import heads
from pyro_dgm.nn import ConvDecoder, ConvEncoder, GatedMLP
from pyro_dgm.nn.convolution import Residual

SHAPES = [(1, 28, 28), (3, 8, 8), (2, 5, 7), (1, 1, 9), (1, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("settings", [{}, {"blocks": 1, "groups": 1, "hidden_features": 6, "activation": nn.SiLU}])
def test_images_of_any_size_and_batch(shape, settings):
    torch.manual_seed(0)
    size = torch.Size(shape).numel()
    for channels in ((4,), (4, 6), (4, 6, 2)):
        encoder = ConvEncoder(shape, 5, 3, channels, **settings)
        decoder = ConvDecoder(5, (2 * shape[0], *shape[1:]), channels[::-1], **settings)
        for batch in ((), (4,), (2, 1, 3), (0,)):
            z = encoder(torch.randn(*batch, size + 3))
            assert z.shape == (*batch, 5)
            assert decoder(z).shape == (*batch, 2 * shape[0], *shape[1:])


def test_a_vector_is_the_image_and_the_context_after_it():
    torch.manual_seed(0)
    plain, given = ConvEncoder((2, 6, 5), 4), ConvEncoder((2, 6, 5), 4, context=3)
    images, c = torch.randn(7, 2, 6, 5), torch.randn(7, 3)
    torch.testing.assert_close(plain(images), plain(images.flatten(1)))
    assert not torch.allclose(
        given(torch.cat([images.flatten(1), c], -1)), given(torch.cat([images.flatten(1), -c], -1))
    )
    given.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(given(torch.cat([images.flatten(1), 0 * c], -1)), plain(images))
    with pytest.raises(ValueError, match=r"x: expected vectors \(\*, 63\).*got \(7, 2, 6, 5\)"):
        given(images)
    with pytest.raises(ValueError, match="channels: expected at least one level"):
        ConvDecoder(2, (1, 4, 4), channels=())
    with pytest.raises(ValueError, match="groups: expected fewer than 2"):
        ConvDecoder(3, (1, 2, 2), channels=(2,), groups=2)
    with pytest.raises(ValueError, match="image_shape: expected"):
        ConvEncoder((4, 4), 2)


def test_every_datum_is_by_itself_and_blocks_start_as_the_identity():
    torch.manual_seed(0)
    for network, x in ((ConvEncoder((1, 9, 9), 4, blocks=2, groups=4), torch.randn(6, 81)),
                       (ConvDecoder(3, (1, 9, 9), blocks=2, groups=4), torch.randn(6, 3))):  # fmt: skip
        network.train()
        torch.testing.assert_close(network(x)[:2], network(x[:2]), atol=1e-5, rtol=1e-5)
        blocks = [f for f in network.modules() if isinstance(f, Residual)]
        h = torch.randn(2, blocks[0].layers[-1].out_channels, 3, 3)
        assert len(blocks) == 4 and torch.equal(blocks[0](h), h)
        network(x).square().sum().backward()
        assert blocks[0].layers[-1].weight.grad.abs().sum() > 0


def test_every_pixel_is_reached_by_the_latent_and_seen_by_the_encoder():
    """By gradients, at sizes that halve unevenly; both directions with smooth activations."""
    torch.manual_seed(0)
    shape = (1, 7, 10)
    encoder, decoder = (ConvEncoder(shape, 2, activation=nn.SiLU), ConvDecoder(2, shape, activation=nn.SiLU))
    x, z = torch.randn(70, requires_grad=True), torch.randn(2)
    assert (torch.autograd.grad(encoder(x).sum(), x)[0] != 0).all()
    assert (torch.autograd.functional.jacobian(decoder, z) != 0).all()


def test_gated_layers_are_those_of_the_paper():
    f, x = GatedMLP(3, 2, (4,)), torch.randn(5, 3)
    (a, b), (a0, b0) = f.layers[0].weight.split(4), f.layers[0].bias.split(4)
    h = (x @ a.T + a0) * torch.sigmoid(x @ b.T + b0)
    torch.testing.assert_close(f(x), h @ f.layers[2].weight.T + f.layers[2].bias)
    assert GatedMLP(3, 2, ())(x).shape == (5, 2)


def autoencoder(head, shape, latent=2, context=0):
    decoder = ConvDecoder(latent + context, (head.size * shape[0], *shape[1:]), (16, 16))
    encoder = ConvEncoder(shape, 2 * latent, context, (16, 16))
    likelihood = m.Factorized(shape, head, latent + context, network=decoder)
    size = torch.Size(shape).numel()
    return m.VAE(
        m.StandardNormal(latent), likelihood, m.DiagonalNormal(latent, size + context, network=encoder), context
    )


def test_models_of_these_networks_can_be_saved(tmp_path):
    vae = autoencoder(heads.DiscretizedLogisticMixture(2, 4), (1, 6, 6), context=3)
    gated = m.IndependentBernoulli(4, context=2, network=GatedMLP(2, 4, (3,)))
    for model in (vae, gated):
        pyro_dgm.save(model, tmp_path / "a.pt")
        again = pyro_dgm.load(tmp_path / "a.pt")
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def bars(n):
    """Images of one bright column or row, in levels 0..3: four of each, so log 8 nats each and no more."""
    which = torch.randint(8, (n,))
    x = torch.zeros(n, 1, 4, 4)
    rows = torch.arange(4)
    x[:, 0] = 3.0 * torch.where((which < 4)[:, None, None], rows[None, :, None] == which[:, None, None],
                                rows[None, None, :] == (which - 4)[:, None, None])  # fmt: skip
    return x


def test_an_autoencoder_of_images_learns_their_levels():
    """Bars, whose entropy is log 8: a bound within 2 nats of it, where independent pixels would need 9."""
    torch.manual_seed(0)
    x = bars(500)
    vae = autoencoder(heads.Categorical(4, ordered=True), (1, 4, 4))
    fit(vae, x, max_epochs=50, batch_size=50, progress=False, seed=0, compile=False,
        optimizer=lambda p: torch.optim.Adam(p, 5e-3))  # fmt: skip
    with torch.no_grad():
        bound = vae().with_particles(20).log_prob(x).mean().item()
    frequencies = torch.stack([(x == k).double().mean(0) for k in (0.0, 3.0)])
    independent = (frequencies * frequencies.log()).sum().item()
    assert -2.08 - 2.0 < bound < 0 and independent < -8
    assert vae.reconstruct(x[:3]).shape == (3, 1, 4, 4)
    assert ((vae.reconstruct(x[:50]) > 1.5) == (x[:50] > 1.5)).double().mean() > 0.95
