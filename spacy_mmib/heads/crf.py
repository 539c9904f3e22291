"""The entity head: emission scores and a linear-chain CRF over BIO tags (Eq. 18, 27)."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy
import torch
from thinc.api import ArgsKwargs, Model, torch2xp, xp2torch
from thinc.types import Floats1d, Floats2d
from torch import nn
from torchcrf import CRF

from ..bridge.data import DecodedEntities, NERInput
from ..bridge.shim import pad, unpad

Gradients: TypeAlias = tuple[Sequence[Floats2d], Sequence[Floats2d]]
"""Of C, and of what borders are told from; no list of the latter if it isn't used."""

# Stands for minus infinity: far below any score a trained CRF gives, and still exact in float32 sums.
FORBIDDEN = -10_000.0


class NERHead(nn.Module):
    """Tags: 0 is O, 2j + 1 is B and 2j + 2 is I of label j. `width` is d, the width of C."""

    def __init__(self, *, width: int, n_labels: int) -> None:
        super().__init__()
        if n_labels < 1:
            raise ValueError(f"An entity recognizer needs at least one label, not {n_labels}.")
        self.n_tags = 2 * n_labels + 1
        self.emission = nn.Linear(width, self.n_tags)
        self.crf = CRF(self.n_tags, batch_first=True)
        # I of a label may only follow B or I of the same label, and may not begin a post.
        forbidden = torch.zeros(self.n_tags, self.n_tags, dtype=torch.bool)
        forbidden[:, 2::2] = True
        for i in range(2, self.n_tags, 2):
            forbidden[i - 1, i] = forbidden[i, i] = False
        self.register_buffer("forbidden", forbidden, persistent=False)
        self.constrain()

    @torch.no_grad()
    def constrain(self) -> None:
        """Write the forbidden transitions into the parameters of this CRF and of those that it has as parts,
        which an optimizer (weight decay) moves: called after each of its steps, and after loading.
        """
        for head in self.modules():
            if isinstance(head, NERHead):
                # .data, since an in-place change of the parameter itself would invalidate a pending backward.
                head.crf.transitions.data.masked_fill_(head.forbidden, FORBIDDEN)
                head.crf.start_transitions.data[2::2] = FORBIDDEN

    def forward(
        self,
        context: torch.Tensor,
        mask: torch.Tensor,
        tags: torch.Tensor | None = None,
        spans: list[tuple[int, int, int, int]] | None = None,
        bias: torch.Tensor | None = None,
        *,
        training: bool = False,
    ) -> Any:
        """The loss if gold tags are given, probabilities of entities if those are, otherwise the best
        entities; in float32, whatever C is in.

        context (torch.Tensor): C, (b, n, d).
        mask (torch.Tensor): Bool (b, n); True from the first token on, without holes.
        tags (Optional[torch.Tensor]): Long (b, n), -1 where the gold is unknown. On CPU.
        spans (Optional[List[Tuple[int, int, int, int]]]): As in `entity_probabilities`.
        bias (Optional[torch.Tensor]): Scores, (b, n, k), which count as much as the emissions: a mean of both
            is taken.
        training (bool): Makes no difference.
        RETURNS (Union[torch.Tensor, List[DecodedEntities], List[float]]): Negative log-likelihood, mean over
            posts, (1,); or the entities of each post; or a probability a span.
        """
        emissions = self.emission(context.to(self.emission.weight.dtype))
        if bias is not None:
            emissions = (emissions + bias) / 2
        if tags is not None:
            return self.negative_log_likelihood(emissions, mask, tags).mean().reshape(1).to(emissions.dtype)
        if spans is not None:
            return self.entity_probabilities(emissions, mask, spans)
        return self.decode(emissions, mask)

    def negative_log_likelihood(
        self, emissions: torch.Tensor, mask: torch.Tensor, tags: torch.Tensor
    ) -> torch.Tensor:
        """-log p(tags) (Eq. 27). Unknown tags are summed over, so that nothing is learned from them:
        -log of the total probability of all sequences that agree with the known ones.

        tags (torch.Tensor): As in `forward`; on CPU, or a GPU has to be waited for.
        RETURNS (torch.Tensor): (b,), in nats; float64.
        """
        emissions, weights = self._in_float64(emissions)
        log_total = sum_up(emissions, mask, *weights)
        if (tags >= 0).all():
            return log_total - score_paths(emissions, mask, tags.to(emissions.device), *weights)
        tags = tags.to(emissions.device).unsqueeze(-1)
        disagrees = (tags >= 0) & (tags != torch.arange(self.n_tags, device=tags.device))
        return log_total - sum_up(emissions.masked_fill(disagrees, FORBIDDEN), mask, *weights)

    def _in_float64(self, emissions: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """RETURNS (Tuple[torch.Tensor, List[torch.Tensor]]): Emissions, and transitions, start and end
        scores, where the emissions are, in float64, but for Apple's GPUs, which have none.
        """
        dtype = torch.float32 if emissions.device.type == "mps" else torch.float64
        weights = (self.crf.transitions, self.crf.start_transitions, self.crf.end_transitions)
        return emissions.to(dtype), [weight.to(emissions.device, dtype) for weight in weights]

    def decode(self, emissions: torch.Tensor, mask: torch.Tensor) -> list[DecodedEntities]:
        """RETURNS (List[DecodedEntities]): The best tag sequence of each post (Viterbi), read as entities."""
        decoded = [DecodedEntities([], [], [], []) for _ in emissions]
        paths = self.find_best_paths(emissions, mask).tolist()
        for found, path, length in zip(decoded, paths, mask.sum(1).tolist()):
            for i, tag in enumerate(path[:length]):
                if tag % 2:
                    found.starts.append(i)
                    found.ends.append(i + 1)
                    found.labels.append(tag // 2)
                elif tag:  # the CRF only lets I follow its own B or I
                    found.ends[-1] = i + 1
        spans = [(post, *span) for post, found in enumerate(decoded) for span in zip(*found[:3])]
        for (post, *_), probability in zip(spans, self.entity_probabilities(emissions, mask, spans)):
            decoded[post].confidences.append(probability)
        return decoded

    @torch.no_grad()
    def find_best_paths(self, emissions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Viterbi, of all posts at once: what `torchcrf.CRF.decode` finds post by post.

        RETURNS (torch.Tensor): Long (b, n), the tag of each token. Rows of padding mean nothing.
        """
        same = torch.arange(self.n_tags, device=emissions.device)
        scores, came_from = self.crf.start_transitions + emissions[:, 0], []
        for i in range(1, emissions.shape[1]):
            steps = scores.unsqueeze(2) + self.crf.transitions + emissions[:, i].unsqueeze(1)
            best, previous = steps.max(1)
            real = mask[:, i].unsqueeze(1)
            scores = torch.where(real, best, scores)
            came_from.append(torch.where(real, previous, same))
        path = [(scores + self.crf.end_transitions).argmax(1, keepdim=True)]
        for previous in reversed(came_from):
            path.append(previous.gather(1, path[-1]))
        return torch.cat(path[::-1], 1)

    @torch.no_grad()
    def entity_probabilities(
        self, emissions: torch.Tensor, mask: torch.Tensor, spans: list[tuple[int, int, int, int]]
    ) -> list[float]:
        """Probability, under the CRF, that exactly these tokens are an entity of this label: the share of all
        tag sequences that have it. One forward-backward pass, whatever the number of spans: of the sequences
        that have a span, forward scores sum up everything before it, backward scores everything after it.

        spans (List[Tuple[int, int, int, int]]): Post, first token, one past the last token, label.
        RETURNS (List[float]): One number a span, 0-1.
        """
        if not spans:
            return []
        post, start, end, label = torch.tensor(spans).T
        posts, row = post.unique(return_inverse=True)
        begin, inside = 2 * label + 1, 2 * label + 2
        # On CPU in float64: many small steps, and the difference of large logarithms is exponentiated.
        scores, weights = self._in_float64(emissions.cpu()[posts])
        real, (transitions, _, end_scores) = mask.cpu()[posts], weights
        forward, backward = sum_up_to(scores, real, *weights)
        so_far = nn.functional.pad(scores.cumsum(1), (0, 0, 1, 0))
        going_on = so_far[row, end, inside] - so_far[row, start + 1, inside] + transitions[begin, inside]
        going_on += (end - start - 2) * transitions[inside, inside]
        is_long = end - start > 1
        score = forward[row, start, begin] + going_on.where(is_long, torch.zeros_like(going_on))
        last = inside.where(is_long, begin)
        following = end.clamp(max=scores.shape[1] - 1)
        after = transitions[last] + scores[row, following] + backward[row, following]
        after.scatter_(1, inside.unsqueeze(1), FORBIDDEN)  # it would go on
        score += torch.where(end < real.sum(1)[row], after.logsumexp(-1), end_scores[last])
        log_total = torch.logsumexp(forward[:, 0] + backward[:, 0], -1)
        found: list[float] = (score - log_total[row]).exp().clamp(max=1.0).tolist()
        return found

    @torch.no_grad()
    def tag_probabilities(self, emissions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Probability of each tag at each token, under the CRF: the share of all tag sequences that have it.

        RETURNS (torch.Tensor): float64 on CPU, (b, n, k). Rows of padding mean nothing.
        """
        scores, weights = self._in_float64(emissions.cpu())
        forward, backward = sum_up_to(scores, mask.cpu(), *weights)
        return (forward + backward).softmax(-1)


def sum_up(
    emissions: torch.Tensor,
    mask: torch.Tensor,
    transitions: torch.Tensor,
    start_scores: torch.Tensor,
    end_scores: torch.Tensor,
) -> torch.Tensor:
    """log Z: the log of the summed exponentiated scores of all tag sequences. Matrices of the scores of steps
    (from tag, to tag) are multiplied in the log semiring, all pairs of neighbours at a time, so that n tokens
    take log2 n rounds and not n (Rush, "Torch-Struct", ACL 2020).

    emissions (torch.Tensor): (b, n, k); float64, since products are of what is far from their largest term.
    mask (torch.Tensor): Bool (b, n); True from the first token on, without holes.
    transitions, start_scores, end_scores (torch.Tensor): (k, k), (k,), (k,).
    RETURNS (torch.Tensor): (b,).
    """
    nowhere = torch.full_like(transitions, FORBIDDEN).fill_diagonal_(0.0)
    steps = torch.where(mask[:, 1:, None, None], transitions + emissions[:, 1:].unsqueeze(2), nowhere)
    while steps.shape[1] > 1:
        pairs, rest = steps[:, : steps.shape[1] // 2 * 2], steps[:, steps.shape[1] // 2 * 2 :]
        steps = torch.cat([_multiply(pairs[:, ::2], pairs[:, 1::2]), rest], 1)
    scores = start_scores + emissions[:, 0]
    if steps.shape[1]:
        scores = (scores.unsqueeze(2) + steps[:, 0]).logsumexp(1)
    return (scores + end_scores).logsumexp(1)


def sum_up_to(
    emissions: torch.Tensor,
    mask: torch.Tensor,
    transitions: torch.Tensor,
    start_scores: torch.Tensor,
    end_scores: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `sum_up`, for every token and tag: all tag sequences before it and all after it.

    RETURNS (Tuple[torch.Tensor, torch.Tensor]): Log of the summed exponentiated scores up to the token, its
        own emission included, and of those behind it; (b, n, k) each.
    """
    forward, backward = torch.empty_like(emissions), torch.empty_like(emissions)
    forward[:, 0] = start_scores + emissions[:, 0]
    for i in range(1, emissions.shape[1]):
        so_far = forward[:, i - 1].unsqueeze(-1) + transitions
        forward[:, i] = torch.logsumexp(so_far, 1) + emissions[:, i]
    backward[:, -1] = ends = end_scores.expand_as(emissions[:, 0])
    for i in reversed(range(emissions.shape[1] - 1)):
        following = (emissions[:, i + 1] + backward[:, i + 1]).unsqueeze(1) + transitions
        is_last = ~mask[:, i + 1].unsqueeze(-1)
        backward[:, i] = torch.where(is_last, ends, torch.logsumexp(following, -1))
    return forward, backward


def _multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """RETURNS (torch.Tensor): log(exp(a) @ exp(b)), computed by a product of matrices, not term by term."""
    most_a, most_b = a.detach().amax(-1, keepdim=True), b.detach().amax(-2, keepdim=True)
    product = (a - most_a).exp() @ (b - most_b).exp()
    # 0 where no allowed sequence is; its log would be infinite, and its gradient no number.
    return product.clamp(min=torch.finfo(a.dtype).tiny).log() + most_a + most_b


def score_paths(
    emissions: torch.Tensor,
    mask: torch.Tensor,
    tags: torch.Tensor,
    transitions: torch.Tensor,
    start_scores: torch.Tensor,
    end_scores: torch.Tensor,
) -> torch.Tensor:
    """As `sum_up`, of one tag sequence a post.

    tags (torch.Tensor): Long (b, n).
    RETURNS (torch.Tensor): (b,).
    """
    steps = emissions.gather(2, tags.unsqueeze(2)).squeeze(2)
    moves = transitions[tags[:, :-1], tags[:, 1:]].where(mask[:, 1:], steps.new_zeros(()))
    last = tags.gather(1, mask.sum(1, keepdim=True) - 1).squeeze(1)
    return start_scores[tags[:, 0]] + (steps * mask).sum(1) + moves.sum(1) + end_scores[last]


def convert_inputs(
    model: Model[Any, Any], X: NERInput, is_train: bool
) -> tuple[ArgsKwargs, Callable[[ArgsKwargs], Gradients]]:
    """RETURNS (Tuple[ArgsKwargs, Callable]): As in `thinc.api.PyTorchWrapper_v3`, for all entity heads."""
    context, mask = pad(X.context, requires_grad=is_train)
    borders = pad(X.borders, requires_grad=is_train)[0] if model.attrs["borders"] else None
    tags = None
    if X.tags is not None:
        rows = [numpy.pad(t, (0, mask.shape[1] - len(t)), constant_values=0) for t in X.tags]
        tags = torch.from_numpy(numpy.stack(rows).astype("int64"))

    def backprop(d_inputs: ArgsKwargs) -> Gradients:
        d_context, d_borders = d_inputs.args[0], d_inputs.args[-1]
        d_context = torch.zeros_like(context) if d_context is None else d_context  # no entity to type
        return unpad(d_context, X.context), [] if d_borders is None else unpad(d_borders, X.context)

    return ArgsKwargs(args=(context, mask, tags, X.spans, borders), kwargs={}), backprop


def convert_outputs(
    model: Model[Any, Any], inputs_outputs: tuple[NERInput, Any], is_train: bool
) -> tuple[list[DecodedEntities] | Floats1d, Callable[[Floats1d], ArgsKwargs]]:
    """RETURNS (Tuple[Any, Callable]): As in `thinc.api.PyTorchWrapper_v3`."""
    _, output = inputs_outputs
    Y = torch2xp(output.detach()) if isinstance(output, torch.Tensor) else output

    def backprop(d_loss: Floats1d) -> ArgsKwargs:
        return ArgsKwargs(args=([output],), kwargs={"grad_tensors": [xp2torch(d_loss)]})

    return Y, backprop
