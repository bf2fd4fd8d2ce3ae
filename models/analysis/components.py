"""Principal components of tokens as colours.

Letters: S tokens, D width, Q components.
"""

import torch

CUT = 0.01  # of the values at either end, which colours leave out


def principal_components(tokens_SD: torch.Tensor, number: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Projections on the directions of largest variance, without whitening.

    A direction's sign is free: here its entry with the largest magnitude is positive.

    Returns:
        (S, Q) float32, Q at most `number`, D and S; and (Q,), the share of all variance that each holds.
    """
    centred_SD = tokens_SD.double() - tokens_SD.double().mean(dim=0)
    values, directions = torch.linalg.eigh(centred_SD.mT @ centred_SD)  # rising
    number = min(number, *tokens_SD.shape)
    values, directions_DQ = values.flip(0).clamp_min(0), directions.flip(1)[:, :number]
    largest_Q = directions_DQ.gather(0, directions_DQ.abs().argmax(dim=0, keepdim=True))
    projected_SQ = centred_SD @ (directions_DQ * largest_Q.sign())
    return projected_SQ.float(), (values[:number] / values.sum().clamp_min(torch.finfo(torch.double).tiny)).float()


def as_colours(components_SQ: torch.Tensor) -> torch.Tensor:
    """(S, 3) in [0, 1]: the first three components as red, green and blue, each from its 1st to its 99th percentile.

    With fewer components the others are 0.5.
    """
    values_S3 = torch.zeros(len(components_SQ), 3)
    values_S3[:, : components_SQ.shape[1]] = components_SQ[:, :3].float().cpu()
    ends = torch.tensor([CUT, 1 - CUT])
    low, high = values_S3.quantile(ends, dim=0) if len(values_S3) < 2**24 else torch.aminmax(values_S3, dim=0)
    colours = (values_S3 - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
    return torch.where(high > low, colours, 0.5).clamp(0, 1)
