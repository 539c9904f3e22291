"""How the families of zero-shot detectors are asked for phrases, and what their answers mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import PIL.Image
import torch


@dataclass(frozen=True)
class Prompt:
    """What a detector is asked in one forward.

    queries (Tuple[int, ...]): Which of the queries it asks for.
    ids (Tuple[Tuple[int, ...], ...]): Token ids: one row with all queries, or a row a query.
    spans (Tuple[Tuple[int, int], ...]): For one row with all queries, start and end of each.
    """

    queries: tuple[int, ...]
    ids: tuple[tuple[int, ...], ...]
    spans: tuple[tuple[int, int], ...] = ()


class Prompts:
    """Makes prompts for a model and reads its answers.

    config (PretrainedConfig): The model's.
    tokenizer (PreTrainedTokenizer): The model's.
    """

    default_threshold: float
    """The default of the family's own post-processing."""

    pixel_inputs: tuple[str, ...]
    """What the model takes of what its image processor makes."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        self.config = config
        self.tokenizer = tokenizer

    def make(self, queries: Sequence[str]) -> list[Prompt]:
        """RETURNS (List[Prompt]): As many as are needed to ask for all queries."""
        raise NotImplementedError

    def collate(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """RETURNS (Dict[str, torch.Tensor]): The model's text inputs for a batch."""
        raise NotImplementedError

    def score(self, prompt: Prompt, probabilities: torch.Tensor) -> torch.Tensor:
        """Read the answer for one picture.

        prompt (Prompt): What was asked.
        probabilities (torch.Tensor): Sigmoid of the model's logits, (boxes, columns).
        RETURNS (torch.Tensor): A score for each query of the prompt, (boxes, queries).
        """
        raise NotImplementedError

    def frame(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        """RETURNS (PIL.Image.Image): The picture as the model's boxes are relative to it, with its upper left
        corner where it was.
        """
        return picture


class DinoPrompts(Prompts):
    """GroundingDINO reads all phrases as one text, "person. organization.", and scores each token of it.
    Phrases don't see each other (the model's attention stops at the full stops).
    """

    default_threshold = 0.25
    pixel_inputs = ("pixel_values", "pixel_mask")

    def make(self, queries: Sequence[str]) -> list[Prompt]:
        """The text is limited (`max_text_len`, 256 tokens): what doesn't fit is asked in further passes,
        rather than left out, so that a long post is searched like a short one.
        """
        limit = int(self.config.max_text_len) - 2  # [CLS] and [SEP]
        parts: list[list[tuple[int, list[int]]]] = []
        room = 0
        for i, query in enumerate(queries):
            tokens = self._tokenize(query)[: limit - 1]
            if not tokens:
                continue
            if len(tokens) + 1 > room:  # a full stop after each
                parts.append([])
                room = limit
            parts[-1].append((i, tokens))
            room -= len(tokens) + 1
        return [self._join(part) for part in parts]

    def _join(self, part: Sequence[tuple[int, list[int]]]) -> Prompt:
        period = self.tokenizer.convert_tokens_to_ids(".")
        ids = [self.tokenizer.cls_token_id]
        spans: list[tuple[int, int]] = []
        for _, tokens in part:
            spans.append((len(ids), len(ids) + len(tokens)))
            ids += [*tokens, period]
        ids.append(self.tokenizer.sep_token_id)
        return Prompt(tuple(i for i, _ in part), (tuple(ids),), tuple(spans))

    def _tokenize(self, query: str) -> list[int]:
        # These two end a phrase for the model, wherever they stand: "u.s. army" would be three.
        text = query.lower().replace(".", " ").replace("?", " ")
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def collate(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """Shorter texts are filled up; the model masks that."""
        length = max(len(prompt.ids[0]) for prompt in prompts)
        ids = torch.full((len(prompts), length), int(self.tokenizer.pad_token_id or 0))
        mask = torch.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            ids[i, : len(prompt.ids[0])] = torch.tensor(prompt.ids[0])
            mask[i, : len(prompt.ids[0])] = 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}

    def score(self, prompt: Prompt, probabilities: torch.Tensor) -> torch.Tensor:
        """A phrase scores as its best token, so the answer is always one of the phrases. (transformers'
        own post-processing joins all tokens above a threshold, across phrases: "person organization".)
        """
        return torch.stack([probabilities[:, a:b].amax(1) for a, b in prompt.spans], 1)


class OwlPrompts(Prompts):
    """OWL-ViT and OWLv2 encode each phrase by itself and score each box with each phrase."""

    default_threshold = 0.1
    pixel_inputs = ("pixel_values",)

    def make(self, queries: Sequence[str]) -> list[Prompt]:
        """RETURNS (List[Prompt]): One, or none if there is nothing to look for."""
        asked = [i for i, query in enumerate(queries) if query.strip()]
        if not asked:
            return []
        rows = self.tokenizer(
            [queries[i] for i in asked],
            padding="max_length",
            truncation=True,
            max_length=int(self.config.text_config.max_position_embeddings),
        )["input_ids"]
        return [Prompt(tuple(asked), tuple(tuple(row) for row in rows))]

    def collate(self, prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
        """All pictures of a batch need as many phrases; a row of zeros is none to the model."""
        most = max(len(prompt.ids) for prompt in prompts)
        ids = torch.zeros((len(prompts), most, len(prompts[0].ids[0])), dtype=torch.long)
        for i, prompt in enumerate(prompts):
            ids[i, : len(prompt.ids)] = torch.tensor(prompt.ids)
        ids = ids.flatten(0, 1)
        # The text is encoded with a causal mask and read at its end, so what fills it up isn't seen.
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def score(self, prompt: Prompt, probabilities: torch.Tensor) -> torch.Tensor:
        """A column a phrase."""
        return probabilities[:, : len(prompt.queries)]

    def frame(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        """OWL-ViT stretches pictures to a square. OWLv2 fills them up to one, on the right and below. That
        is done here, with the grey it was trained with: transformers 5 fills up with black.
        """
        if self.config.model_type != "owlv2" or picture.width == picture.height:
            return picture
        square = PIL.Image.new("RGB", (max(picture.size), max(picture.size)), (128, 128, 128))
        square.paste(picture)
        return square
