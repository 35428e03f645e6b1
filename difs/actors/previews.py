"""Previews: a latent as a small picture, by a linear map from latent channels to RGB.

The map is a least-squares fit to the pictures that were painted, so it fits any autoencoder and gets
better with each; a preview is then one small matrix product on the device.
"""

import torch
from torch.nn import functional

from difs.messages import MAX_PREVIEW_SIDE, Preview

FORGET = 0.9
"""What an earlier picture counts for when one more is painted."""
RIDGE = 1e-3


class Projection:
    """latent (channels) -> RGB in 0..1: `latent @ weights + bias`, by the normal equations."""

    def __init__(self, channels: int, device: torch.device) -> None:
        """Know nothing yet."""
        size = channels + 1
        self._gram = RIDGE * torch.eye(size, device=device)
        self._moment = torch.zeros(size, 3, device=device)
        self._solved: torch.Tensor | None = None

    def learn(self, latents: torch.Tensor, image: torch.Tensor) -> None:
        """Take a latent (1, channels, h, w) and its image (1, 3, height, width) in -1..1 into account."""
        height, width = latents.shape[-2:]
        small = functional.adaptive_avg_pool2d(image.float(), (height, width)) * 0.5 + 0.5
        x = _rows(latents)
        y = small.clamp(0, 1).permute(0, 2, 3, 1).reshape(-1, 3)
        scale = x.square().mean() * len(x)  # a latent that went astray counts no more than others
        self._gram = FORGET * self._gram + x.T @ x / scale
        self._moment = FORGET * self._moment + x.T @ y / scale
        self._solved = None

    def show(self, latents: torch.Tensor) -> Preview:
        """Return the picture of a latent (1, channels, h, w): a pixel each, fewer if it is large."""
        if self._solved is None:
            self._solved = torch.linalg.solve(self._gram, self._moment)
        height, width = latents.shape[-2:]
        picture = (_rows(latents) @ self._solved).reshape(height, width, 3)
        stride = -(-max(height, width) // MAX_PREVIEW_SIDE)
        pixels = (picture[::stride, ::stride].clamp(0, 1) * 255).to(torch.uint8).cpu().contiguous()
        height, width, _ = pixels.shape
        return Preview(height, width, pixels.numpy().tobytes())


def _rows(latents: torch.Tensor) -> torch.Tensor:
    """Return a latent's pixels, one a row, with a 1 for the bias: (h x w, channels + 1)."""
    x = latents[0].float().permute(1, 2, 0).reshape(-1, latents.shape[1])
    return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
