"""Methods that hide parts of a picture and see what becomes of the logits: occlusion, RISE and LIME.

Their signature, and what is said of all methods, is in ``methods``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coda_cli.core.abilities import probabilities
from coda_cli.core.networks import encode, forward
from coda_cli.study.methods import masked_at_once, quiet

MASKS_DRAWN = 32  # masks of RISE that are drawn at a time; another number draws other masks, so it is fixed


@torch.no_grad()
def occlusion(model: nn.Module, x: Tensor, classes: Sequence[int], *, window: int = 32, stride: int = 32) -> Tensor:
    """Measure how much a logit drops when a window turns black, spread evenly over the window, summed over all windows.

    Windows are centred on multiples of the stride and cut off at the border. (The original code's windows have another
    size than it says: its 5 is 4 here, its 9 is 8, its 50 at stride 20 is 80.)

    Args:
        model: any network.
        x: float [1, 6, h, w], an encoded picture.
        classes: K class indices.
        window: side of a window in pixels.
        stride: distance of windows in pixels.

    Returns:
        float [K, h, w], signed, in logit units.
    """
    colours, chosen = x[:, :3], list(classes)
    H, W = x.shape[2:]
    whole = forward(model, x)[0, chosen]
    maps = x.new_zeros(len(chosen), H, W)
    corners = [centre - window // 2 for centre in range(0, max(H, W) + 1, stride)]
    spans_y = [slice(max(0, a), min(H, a + window)) for a in corners if a + window // 2 <= H]
    spans_x = [slice(max(0, a), min(W, a + window)) for a in corners if a + window // 2 <= W]
    places = list(itertools.product(spans_y, spans_x))
    places = [(rows, columns) for rows, columns in places if rows.start < rows.stop and columns.start < columns.stop]
    for i in range(0, len(places), size := masked_at_once(x)):
        batch = places[i : i + size]
        masked = colours.repeat(len(batch), 1, 1, 1)
        for picture, (rows, columns) in zip(masked, batch, strict=True):
            picture[:, rows, columns] = 0
        drops = whole - forward(model, encode(masked))[:, chosen]
        for drop, (rows, columns) in zip(drops, batch, strict=True):
            area = (rows.stop - rows.start) * (columns.stop - columns.start)
            maps[:, rows, columns] += drop[:, None, None] / area
    return maps


@torch.no_grad()
def rise(
    model: nn.Module,
    x: Tensor,
    classes: Sequence[int],
    *,
    masks: int = 6000,
    cells: int = 6,
    kept: float = 0.1,
    seed: int = 42,
) -> Tensor:
    """Compute RISE: the mean of random soft masks, each weighted by the probability that it leaves.

    Each mask keeps some of its cells; it is enlarged and shifted at random.

    Args:
        model: any network.
        x: float [1, 6, h, w], an encoded picture.
        classes: K class indices.
        masks: how many.
        cells: on each side of a mask.
        kept: share of the cells that are kept, in (0, 1].
        seed: of the masks.

    Returns:
        float [K, h, w], not negative, not in logit units.
    """
    chosen, (H, W) = list(classes), x.shape[2:]
    generator = torch.Generator().manual_seed(seed)
    ch, cw = -(-H // cells), -(-W // cells)
    total = x.new_zeros(len(chosen), H, W)
    for start in range(0, masks, MASKS_DRAWN):
        n = min(MASKS_DRAWN, masks - start)
        coarse = (torch.rand(n, 1, cells, cells, generator=generator) < kept).to(x)
        fine = F.interpolate(coarse, ((cells + 1) * ch, (cells + 1) * cw), mode="bilinear", align_corners=False)
        dy, dx = (torch.randint(0, c, (n,), generator=generator).tolist() for c in (ch, cw))
        soft = torch.stack([m[:, y : y + H, z : z + W] for m, y, z in zip(fine, dy, dx, strict=True)])
        for part in soft.split(masked_at_once(x)):
            p = probabilities(model, forward(model, encode(x[:, :3] * part)))[:, chosen]
            total += torch.einsum("nk,nhw->khw", p, part[:, 0])
    return total / (masks * kept)


def lime(
    model: nn.Module,
    x: Tensor,
    classes: Sequence[int],
    *,
    samples: int = 256,
    features: int = 3,
    kernel: float = 1.0,
    seed: int = 42,
) -> Tensor:
    """Compute LIME: the superpixels that speak most for the class in a linear fit of its probability.

    Superpixels are quickshift's (at most 200 pixels away, ratio 0.2); hidden ones take their mean colour. How near a
    masked picture is to the whole one, and so how much it counts, is captum's default, not that of the lime package.

    Args:
        model: any network.
        x: float [1, 6, h, w], an encoded picture.
        classes: K class indices.
        samples: masked pictures for the fit.
        features: how many superpixels are marked.
        kernel: width of quickshift's kernel, in pixels.
        seed: of the masks.

    Returns:
        float [K, h, w]: 1 on the marked superpixels, 0 elsewhere.
    """
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import LimeBase
    from captum.attr._core.lime import get_exp_kernel_similarity_function
    from skimage.segmentation import quickshift

    rgb = x[0, :3].detach()
    picture = rgb.permute(1, 2, 0).cpu().double().numpy()  # Apple GPUs have no float64
    segments = quickshift(picture, kernel_size=kernel, max_dist=200, ratio=0.2)  # type: ignore[no-untyped-call]
    index = torch.from_numpy(segments).unique(return_inverse=True)[1].to(x.device)  # numbered from 0, [h, w]
    sizes = index.flatten().bincount()
    means = (rgb.new_zeros(3, len(sizes)).index_add(1, index.flatten(), rgb.flatten(1)) / sizes)[:, index]

    def masked(shown: Tensor, whole: Tensor, **_: Any) -> Tensor:
        return torch.where(shown[0, index] == 1, whole, means)

    maps, kept = [], list[Tensor]()  # probabilities [n, K] of each batch of masked pictures, as captum asks for them
    for k in range(len(classes)):
        batches, generator = itertools.count(), torch.Generator().manual_seed(seed)  # the same pictures for every class

        def drawn(_: Tensor, generator: torch.Generator = generator, **__: Any) -> Tensor:
            return torch.full((1, len(sizes)), 0.5).bernoulli(generator=generator).to(x.device)

        def probability(pictures: Tensor, k: int = k, batches: Iterator[int] = batches) -> Tensor:
            if (i := next(batches)) == len(kept):
                with torch.no_grad():
                    kept.append(probabilities(model, forward(model, encode(pictures)))[:, list(classes)])
            return kept[i][:, k]

        fit, near = SkLearnRidge(alpha=1.0), get_exp_kernel_similarity_function()
        with quiet():
            weights = LimeBase(probability, fit, near, drawn, True, masked, None).attribute(
                rgb[None], n_samples=samples, perturbations_per_eval=masked_at_once(x)
            )[0]
        best, which = weights.topk(min(features, len(sizes)))
        maps.append(torch.isin(index, which[best > 0].to(index.device)).to(x.dtype))
    return torch.stack(maps)
