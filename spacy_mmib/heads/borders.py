"""Entity heads with a CRF of their own for borders: tags O, B and I without types."""

from typing import Any

import torch
from torch import nn

from ..bridge.data import DecodedEntities
from .crf import NERHead


class BorderBias(NERHead):
    """The head of UMT (Yu et al., ACL 2020, section 3.4). An auxiliary CRF learns borders from vectors a; its
    emissions, spread evenly over the types, are half of those of the main one:

    e_t = 1/2 (W c_t + b) + 1/2 M^T (W' a_t + b'),

    where M, 3 x k, has 1 from O to O, and from B and I 1 / labels to the B and I of each label.

    width, border_width (int): Widths of C and of a.
    """

    spread: torch.Tensor

    def __init__(self, *, width: int, n_labels: int, border_width: int) -> None:
        super().__init__(width=width, n_labels=n_labels)
        self.auxiliary = NERHead(width=border_width, n_labels=1)
        spread = torch.zeros(3, self.n_tags)
        spread[0, 0] = 1.0
        spread[1, 1::2] = spread[2, 2::2] = 1 / n_labels
        self.register_buffer("spread", spread, persistent=False)

    def forward(
        self,
        context: torch.Tensor,
        mask: torch.Tensor,
        tags: torch.Tensor | None = None,
        spans: list[tuple[int, int, int, int]] | None = None,
        borders: torch.Tensor | None = None,
        *,
        training: bool = False,
    ) -> Any:
        """As `NERHead.forward`, but that the loss is followed by that of the auxiliary CRF, (2,).

        borders (Optional[torch.Tensor]): a, (b, n, border_width). Not optional, in the place of a bias.
        """
        bias = self.auxiliary.emission(_check(borders)) @ self.spread
        result = super().forward(context, mask, tags, spans, bias)
        if tags is None:
            return result
        return torch.cat([result, self.auxiliary(borders, mask, _drop_types(tags))])


class BorderFirst(nn.Module):
    """Two stages. A CRF finds the borders of entities from vectors a, a linear layer the type of each from
    the mean of C over its tokens: p(entities) = p_CRF(borders | a) times the product of softmax(W c + b) over
    the entities. With the text vectors as a, no picture moves a border.

    width, border_width (int): Widths of C and of a.
    """

    def __init__(self, *, width: int, n_labels: int, border_width: int) -> None:
        super().__init__()
        if n_labels < 1:
            raise ValueError(f"An entity recognizer needs at least one label, not {n_labels}.")
        self.borders = NERHead(width=border_width, n_labels=1)
        self.types = nn.Linear(width, n_labels)

    def constrain(self) -> None:
        """See `NERHead.constrain`."""
        self.borders.constrain()

    def forward(
        self,
        context: torch.Tensor,
        mask: torch.Tensor,
        tags: torch.Tensor | None = None,
        spans: list[tuple[int, int, int, int]] | None = None,
        borders: torch.Tensor | None = None,
        *,
        training: bool = False,
    ) -> Any:
        """As `NERHead.forward`. An entity whose last token isn't known teaches no type.

        borders (Optional[torch.Tensor]): a, (b, n, border_width). Not optional, in the place of a bias.
        """
        borders = _check(borders)
        if tags is not None:
            gold = _find_entities(tags.tolist(), mask.sum(1).tolist())
            log_p = self._classify(context, gold)[range(len(gold)), [label for *_, label in gold]]
            loss = self.borders(borders, mask, _drop_types(tags))
            return loss - log_p.sum() / len(context)
        if spans is not None:
            found = self.borders(borders, mask, None, [(*span[:3], 0) for span in spans])
            types = self._classify(context, spans).exp().tolist()
            return [p * of_span[label] for p, of_span, (*_, label) in zip(found, types, spans)]
        decoded: list[DecodedEntities] = self.borders(borders, mask)
        found = [(i, *span, 0) for i, x in enumerate(decoded) for span in zip(x.starts, x.ends)]
        probabilities, labels = (iter(x.tolist()) for x in self._classify(context, found).exp().max(-1))
        for x in decoded:
            x.labels[:] = [next(labels) for _ in x.labels]
            x.confidences[:] = [p * next(probabilities) for p in x.confidences]
        return decoded

    def _classify(self, context: torch.Tensor, spans: list[tuple[int, int, int, int]]) -> torch.Tensor:
        """RETURNS (torch.Tensor): Log of the probability of each type, (spans, labels)."""
        # Products of matrices rather than gathering: their gradient is deterministic on a GPU too.
        pooling = torch.zeros(len(spans), *context.shape[:2])
        for row, (post, start, end, _) in enumerate(spans):
            pooling[row, post, start:end] = 1 / (end - start)
        means = pooling.flatten(1).to(context) @ context.flatten(0, 1)
        return self.types(means.to(self.types.weight.dtype)).log_softmax(-1)


def _check(borders: torch.Tensor | None) -> torch.Tensor:
    if borders is None:
        raise ValueError("This head tells borders from vectors of their own, and was given none.")
    return borders


def _drop_types(tags: torch.Tensor) -> torch.Tensor:
    """RETURNS (torch.Tensor): 0 for O, 1 for B, 2 for I, -1 where the gold is unknown."""
    return torch.where(tags > 0, 2 - tags % 2, tags)


def _find_entities(tags: list[list[int]], lengths: list[int]) -> list[tuple[int, int, int, int]]:
    """RETURNS (List[Tuple[int, int, int, int]]): Post, first token, one past the last and label of those
    entities whose end is known.
    """
    found = []
    for post, (row, length) in enumerate(zip(tags, lengths)):
        row = [*row[:length], 0]
        for start, tag in enumerate(row):
            if tag > 0 and tag % 2:
                end = start + 1
                while row[end] == tag + 1:
                    end += 1
                if row[end] >= 0:
                    found.append((post, start, end, tag // 2))
    return found
