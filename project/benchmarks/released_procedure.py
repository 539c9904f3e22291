"""What the code released with the paper does with a batch of posts, written plainly in PyTorch.

Every text is padded to 128 word pieces, posts go in batches of 8, every picture and every object is read,
scaled and taken through ResNet-50 at the moment it is needed, each time. Means and variances are computed at
prediction too, since the released code samples there. Padding takes part in attention and in the KL terms.

Where the released code leaves a choice the faster one is taken: ResNet runs without a graph for gradients,
objects are cut out of the picture that is open already instead of being read from files of their own, the
word piece tokenizer is the fast one, and nothing is computed with gold tags at prediction.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchcrf import CRF
from torchvision import transforms
from transformers import AutoTokenizer, BertModel

from project.benchmarks.generated_posts import LABELS, Post

BATCH_SIZE = 8
MAX_LENGTH = 128
BETA = 0.1
LEARN_RATE = 3e-5
WEIGHT_DECAY = 0.01
TAGS = ["PAD", "O", *(f"{p}-{label}" for label in LABELS for p in "BI"), "X", "[CLS]", "[SEP]"]
TAG_IDS = {tag: i for i, tag in enumerate(TAGS)}

NORMALIZE = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
TRANSFORM = transforms.Compose(
    [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), NORMALIZE]
)


class Attend(nn.Module):
    """APEnc (Eq. 4-5), with one linear layer as feed-forward network and without a mask of the keys."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout=0.1, batch_first=True)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Linear(width, width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """RETURNS (torch.Tensor): (b, q, d) for queries (b, q, d) and keys (b, k, d)."""
        attended, _ = self.attention(query, keys, keys, need_weights=False)
        hidden = self.attention_norm(query + self.dropout(attended))
        result: torch.Tensor = self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden)))
        return result


class ReleasedCore(nn.Module):
    """Variational encoding, fusion and regularizers (Eq. 6-9, 16-17, 20-26)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.text_mu, self.text_log_var = Attend(width, heads), Attend(width, heads)
        self.image_mu, self.image_log_var = Attend(width, heads), Attend(width, heads)
        self.image_to_text, self.text_to_image = Attend(width, heads), Attend(width, heads)
        self.discriminator = nn.Linear(2 * width, width)

    def forward(self, text: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """RETURNS (Tuple[Tensor, Tensor]): C, (b, 128, d), and the weighted regularizers."""
        z_text, kl_text = self._sample(self.text_mu(text, text), self.text_log_var(text, text))
        z_image, kl_image = self._sample(self.image_mu(image, image), self.image_log_var(image, image))
        fused = self.image_to_text(z_image, z_text)
        context = self.text_to_image(z_text, fused)
        pooled_text, pooled_image = z_text.mean(1), z_image.mean(1)
        # F.binary_cross_entropy refuses to run where autocast is on.
        with torch.autocast(text.device.type, enabled=False):
            pooled_text, pooled_image = pooled_text.float(), pooled_image.float()
            own = self._discriminate(pooled_text, pooled_image)
            other = self._discriminate(pooled_text, pooled_image.roll(1, 0))
            alignment = F.binary_cross_entropy(own, torch.ones_like(own))
            alignment = alignment + F.binary_cross_entropy(other, torch.zeros_like(other))
        return context, BETA * kl_text + BETA * kl_image + alignment

    @staticmethod
    def _sample(mu: torch.Tensor, log_var: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
        return z, 0.5 * (mu.square() + log_var.exp() - 1 - log_var).mean()

    def _discriminate(self, text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.discriminator(torch.cat([text, image], -1)))


class ReleasedModel(nn.Module):
    """The whole model."""

    def __init__(self, bert: Path, arch: str, weights: Path, heads: int) -> None:
        super().__init__()
        self.bert = BertModel.from_pretrained(bert)
        self.tokenizer = AutoTokenizer.from_pretrained(bert)
        self.resnet = torchvision.models.get_model(arch)
        self.resnet.load_state_dict(torch.load(weights, weights_only=True))
        image_width = self.resnet.fc.in_features
        self.resnet.fc = nn.Identity()
        self.resnet.requires_grad_(False)
        width = self.bert.config.hidden_size
        self.image_projection = nn.Linear(image_width, width)  # W_v
        self.core = ReleasedCore(width, heads)
        self.emission = nn.Linear(width, len(TAGS))
        self.crf = CRF(len(TAGS), batch_first=True)

    def read(self, posts: Sequence[Post]) -> tuple[Any, torch.Tensor]:
        """RETURNS (Tuple[BatchEncoding, torch.Tensor]): Word pieces, (b, 128), and the pictures and their
        objects, (b, m + 1, 3, 224, 224).
        """
        words = [list(post.words) for post in posts]
        settings = {"padding": "max_length", "truncation": True, "max_length": MAX_LENGTH}
        pieces = self.tokenizer(words, is_split_into_words=True, return_tensors="pt", **settings)
        pictures = []
        for post in posts:
            with Image.open(post.picture) as file:
                whole = file.convert("RGB")
            crops = [whole, *(whole.crop(box) for box in post.boxes)]
            pictures.append(torch.stack([TRANSFORM(crop) for crop in crops]))
        return pieces, torch.stack(pictures)

    def forward(self, pieces: Any, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """RETURNS (Tuple[Tensor, Tensor, Tensor]): Emission scores, the mask of the pieces, regularizers."""
        device = self.emission.weight.device
        ids, mask = pieces["input_ids"].to(device), pieces["attention_mask"].to(device)
        text = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        pictures = pictures.to(device)
        with torch.no_grad():
            self.resnet.eval()
            # All pictures of the batch, then all first objects, and so on.
            slots = [self.resnet(pictures[:, i]) for i in range(pictures.shape[1])]
        context, regularizers = self.core(text, self.image_projection(torch.stack(slots, 1)))
        return self.emission(context), mask.bool(), regularizers

    @torch.no_grad()
    def predict(self, posts: Sequence[Post]) -> Iterator[list[str]]:
        """Tag posts."""
        self.eval()
        for start in range(0, len(posts), BATCH_SIZE):
            pieces, pictures = self.read(posts[start : start + BATCH_SIZE])
            emissions, mask, _ = self(pieces, pictures)
            for i, path in enumerate(self.crf.decode(emissions, mask)):
                words = pieces.word_ids(i)[: len(path)]
                firsts = [j for j, word in enumerate(words) if word is not None and word != words[j - 1]]
                yield [TAGS[path[j]] for j in firsts]

    def make_optimizer(self) -> torch.optim.Optimizer:
        """RETURNS (torch.optim.Optimizer): For everything but ResNet."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.AdamW(parameters, lr=LEARN_RATE, weight_decay=WEIGHT_DECAY)

    def train_step(self, posts: Sequence[Post], optimizer: torch.optim.Optimizer) -> None:
        """Learn from a batch."""
        self.train()
        pieces, pictures = self.read(posts)
        emissions, mask, regularizers = self(pieces, pictures)
        tags = self._get_tags(posts, pieces).to(emissions.device)
        loss = regularizers - self.crf(emissions, tags, mask, reduction="mean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @staticmethod
    def _get_tags(posts: Sequence[Post], pieces: Any) -> torch.Tensor:
        rows = []
        for i, post in enumerate(posts):
            tags, words = post.get_tags(), pieces.word_ids(i)
            end = sum(pieces["attention_mask"][i].tolist()) - 1
            row = [TAG_IDS["PAD"]] * len(words)
            row[0], row[end] = TAG_IDS["[CLS]"], TAG_IDS["[SEP]"]
            for j in range(1, end):
                row[j] = TAG_IDS["X" if words[j] == words[j - 1] else tags[words[j]]]
            rows.append(row)
        return torch.tensor(rows)
