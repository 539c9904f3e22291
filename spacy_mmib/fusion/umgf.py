"""UMGF (Zhang et al., "Multi-modal Graph Fusion for Named Entity Recognition with Targeted Visual Guidance",
AAAI 2021).
"""

import torch
from spacy.util import registry
from thinc.api import Model
from torch import nn
from torch.nn import functional as F

from ..bridge.data import FusionInput, PostVectors
from .base import Fusion, FusionOutput, fusion_layer
from .blocks import attend, fill_mask, fill_no_picture, project


class Gate(nn.Module):
    """What a node gets of those of the other modality: sum_j g_ij * o_j, g_ij = sigmoid(W [x_i; o_j] + b).

    width (int): D.
    normalize (bool): The mean over j in the place of the sum.
    """

    def __init__(self, width: int, normalize: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, width)
        self.normalize = normalize

    def forward(self, x: torch.Tensor, o: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Gather. Has buffers of (b, x, o, D), each as large as all rows of x for every row of o.

        x, o (torch.Tensor): (b, x, D), (b, o, D).
        mask (torch.Tensor): Bool (b, o): what is gathered.
        RETURNS (torch.Tensor): (b, x, D); zeros for a post where nothing is.
        """
        of_x, of_o = self.linear.weight.chunk(2, 1)
        of_pairs = F.linear(x, of_x, self.linear.bias).unsqueeze(2) + F.linear(o, of_o).unsqueeze(1)
        total = (of_pairs.sigmoid() * o.masked_fill(~mask.unsqueeze(-1), 0.0).unsqueeze(1)).sum(2)
        return total / mask.sum(1).clamp(min=1)[:, None, None] if self.normalize else total


class Nodes(nn.Module):
    """One modality's half of a layer; see `UMGF`.

    projected (bool): Whether attention has value and output projections.
    last (bool): Whether there is nothing after the attention.
    """

    def __init__(
        self, width: int, heads: int, inner: int, normalize: bool, projected: bool, last: bool
    ) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.Linear(width, (3 if projected else 2) * width)
        self.output = nn.Linear(width, width) if projected else nn.Identity()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(1 if last else 3))
        if not last:
            self.gate = Gate(width, normalize)
            self.feed_forward = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))

    def attend(self, x: torch.Tensor, mask: torch.Tensor, dropout: float) -> torch.Tensor:
        """RETURNS (torch.Tensor): x' = LN(x + MHA(x)), (b, rows, D)."""
        q, k, *values = self.attention(x).split(x.shape[-1], -1)
        v = values[0] if values else x
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        attended = attend(q, k, v, mask[:, None, None], dropout).transpose(1, 2).flatten(-2)
        x = self.norms[0](x + F.dropout(self.output(attended), dropout))
        return x

    def gather(self, x: torch.Tensor, o: torch.Tensor, mask: torch.Tensor, dropout: float) -> torch.Tensor:
        """RETURNS (torch.Tensor): LN(x'' + FFN(x'')), x'' = LN(x' + sum_j g_ij * o'_j), (b, rows, D)."""
        x = self.norms[1](x + F.dropout(self.gate(x, o, mask), dropout))
        x = self.norms[2](x + F.dropout(self.feed_forward(x), dropout))
        return x


class Layer(nn.Module):
    """Tokens attend to tokens and objects to objects, then each gathers from the other modality."""

    def __init__(self, width: int, heads: int, inner: int, normalize: bool, last: bool) -> None:
        super().__init__()
        self.text = Nodes(width, heads, inner, normalize, projected=True, last=False)
        self.objects = Nodes(width, heads, inner, normalize, projected=False, last=last)
        self.last = last

    def forward(
        self, x: torch.Tensor, x_mask: torch.Tensor, o: torch.Tensor, o_mask: torch.Tensor, dropout: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """RETURNS (Tuple[torch.Tensor, torch.Tensor]): x, (b, n, D), and o, (b, m, D), of the next layer."""
        x, o = self.text.attend(x, x_mask, dropout), self.objects.attend(o, fill_mask(o_mask), dropout)
        gathered = o if self.last else self.objects.gather(o, x, x_mask, dropout)
        return self.text.gather(x, o, o_mask, dropout), gathered


class UMGF(Fusion):
    """A graph of a post's tokens and objects, each connected with each. On text vectors H and picture vectors
    V, x = W_x H and o = ReLU(W_2 ReLU(W_1 V)), both of width D; then in every layer

    - x' = LN(x + MHA(x)); o' = LN(o + MHA(o)), there without value and output projections;
    - x'' = LN(x' + sum_j g_ij * o'_j); o'' = LN(o' + sum_i g_ji * x'_i), with gates a dimension,
      g_ij = sigmoid(W [x'_i; o'_j]), and g_ji with a W of its own;
    - x = LN(x'' + FFN(x'')); o = LN(o'' + FFN(o'')).

    C = [H; x], of width d + D. The last layer ends with o': nothing would look at more. Without objects
    nothing is added to x'. The settings are those of `spacy-mmib.UMGF.v1`.
    """

    runtime = ("dropout",)

    def __init__(
        self,
        *,
        text_width: int,
        image_width: int,
        width: int,
        inner_width: int = 512,
        layers: int = 6,
        heads: int = 8,
        feed_forward: int = 256,
        dropout: float = 0.4,
        normalize: bool = False,
        keep_whole: bool = True,
    ) -> None:
        super().__init__(width + inner_width)
        if layers < 1 or heads < 1 or inner_width % heads:
            raise ValueError(
                f"UMGF needs a layer or more, not {layers}, and a number of heads ({heads}) that divides its "
                f"inner_width ({inner_width})."
            )
        self.dropout, self.keep_whole = dropout, keep_whole
        self.text_projection = project(text_width, width)
        self.tokens = nn.Linear(width, inner_width)
        self.objects = nn.ModuleList(nn.Linear(w, inner_width) for w in (image_width, inner_width))
        layer = (inner_width, heads, feed_forward, normalize)
        self.layers = nn.ModuleList(Layer(*layer, last=i == layers) for i in range(1, layers + 1))

    def forward(
        self,
        text: torch.Tensor,
        text_mask: torch.Tensor,
        image: torch.Tensor,
        image_mask: torch.Tensor,
        image_ids: torch.Tensor,
        *,
        training: bool,
    ) -> FusionOutput:
        """Fuse text and picture, as `Fusion.forward` says, without losses or attention weights."""
        dropout = self.dropout if training else 0.0
        h = self.text_projection(text)
        x = self.tokens(h)
        if not self.keep_whole:
            image, image_mask = image[:, 1:], image_mask[:, 1:]
        for layer in self.objects:
            image = F.dropout(F.relu(layer(image)), dropout)
        o = fill_no_picture(x.new_zeros(x.shape[-1]), image, image_mask)  # a row at least
        mask = image_mask if image_mask.shape[1] else image_mask.new_zeros(len(o), 1)
        for layer in self.layers:
            x, o = layer(x, text_mask, o, mask, dropout)
        return FusionOutput(torch.cat([h, x], -1))


@registry.architectures("spacy-mmib.UMGF.v1")
def build_umgf_v1(
    inner_width: int = 512,
    layers: int = 6,
    heads: int = 8,
    feed_forward: int = 256,
    dropout: float = 0.4,
    normalize: bool = False,
    keep_whole: bool = True,
) -> Model[FusionInput, PostVectors]:
    """Build the fusion of UMGF. As published: BERT-base-cased and four crops (person, location, organization,
    miscellaneous), without the whole picture, through a ResNet-152 that is trained with the rest.

    What differs from the released code: padding and absent crops take part in nothing. As there, the graph is
    complete, with no edges from syntax or from what objects are, and gated vectors are summed, so that what a
    node gathers grows with the number of tokens and of objects (`normalize` takes means).

    Memory grows with tokens times picture rows times `inner_width`, in each layer: it is for ten objects or
    so; on the 49 rows of a 7 x 7 grid take UMT or MAF.

    inner_width (int): D.
    layers (int): Layers of the graph.
    heads (int): Attention heads; must divide `inner_width`.
    feed_forward (int): Width within the feed-forward networks.
    dropout (float): 0-1, on objects, attention weights and residual connections.
    normalize (bool): Gather means instead of sums.
    keep_whole (bool): Whether the whole picture is a node beside its objects. If not, as published, a picture
        without objects is as none.
    RETURNS (Model[FusionInput, PostVectors]): The sub-layer `fusion` of `spacy-mmib.NER.v1` and `REL.v1`.
    """
    return fusion_layer(
        UMGF,
        inner_width=inner_width,
        layers=layers,
        heads=heads,
        feed_forward=feed_forward,
        dropout=dropout,
        normalize=normalize,
        keep_whole=keep_whole,
    )
