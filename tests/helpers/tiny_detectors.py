"""Object detectors with few random weights, saved to disk as published ones are."""

import json
from functools import lru_cache
from pathlib import Path

import numpy
import PIL.Image
import torch

WORDS = [
    "person",
    "organization",
    "location",
    "miscellaneous",
    "cat",
    "dog",
    "red",
    "car",
    "the",
    "old",
    "man",
    "in",
    "of",
]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def draw_picture(width: int, height: int, seed: int = 0) -> PIL.Image.Image:
    """Noise, with a coarse pattern: flat pictures give flat scores."""
    rng = numpy.random.RandomState(seed)
    coarse = PIL.Image.fromarray(rng.randint(0, 255, (5, 5, 3)).astype("uint8"))
    return coarse.resize((width, height), PIL.Image.Resampling.NEAREST)


def write_bert_vocabulary(folder: Path) -> None:
    """The special tokens stand where they do in the vocabulary of BERT, as GroundingDINO has their
    numbers in its code."""
    tokens = ["[PAD]"] + [f"[unused{i}]" for i in range(1, 100)]
    tokens += ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += [f"[unused{i}]" for i in range(100, 1200)][: 1012 - len(tokens)] + ["."]
    tokens += [f"[more{i}]" for i in range(1029 - len(tokens))] + ["?"]
    tokens += [*WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS), "-", "'"]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(tokens)), encoding="utf8")


def save_grounding_dino(folder: Path, seed: int = 0, **settings) -> Path:
    """A GroundingDINO with a tiny Swin and a tiny BERT."""
    from transformers import (
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        SwinConfig,
    )

    folder.mkdir(parents=True, exist_ok=True)
    write_bert_vocabulary(folder)
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    backbone = SwinConfig(
        image_size=32,
        patch_size=4,
        embed_dim=8,
        depths=[1, 1, 1],
        num_heads=[1, 2, 2],
        window_size=4,
        out_features=["stage2", "stage3"],
    )
    text = {
        "model_type": "bert",
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    config = GroundingDinoConfig(
        **{
            "backbone_config": backbone,
            "text_config": text,
            "d_model": 32,
            "num_queries": 12,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "num_feature_levels": 3,
            "encoder_n_points": 2,
            "decoder_n_points": 2,
            "max_text_len": 32,
            **settings,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GroundingDinoForObjectDetection(config)
        spread(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"shortest_edge": 48, "longest_edge": 96}
    GroundingDinoImageProcessor(size=size).save_pretrained(folder)
    return folder


def save_owl(folder: Path, version: int = 2, seed: int = 0) -> Path:
    """An OWLv2, or with version 1 an OWL-ViT."""
    import transformers

    names = {1: "OwlViT", 2: "Owlv2"}
    config_class = getattr(transformers, f"{names[version]}Config")
    model_class = getattr(transformers, f"{names[version]}ForObjectDetection")
    processor_class = getattr(transformers, f"{names[version]}ImageProcessor")
    folder.mkdir(parents=True, exist_ok=True)
    letters = [*"!"] + [*LETTERS] + [f"{letter}</w>" for letter in LETTERS]
    vocabulary = [*letters, "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(vocabulary)}), encoding="utf8"
    )
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n", encoding="utf8")
    tokenizer = transformers.CLIPTokenizerFast.from_pretrained(folder, pad_token="!")
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": len(vocabulary), "max_position_embeddings": 8}
    text.update(bos_token_id=len(vocabulary) - 2, eos_token_id=len(vocabulary) - 1, pad_token_id=0)
    config = config_class(
        text_config=text, vision_config={**tower, "image_size": 48, "patch_size": 8}, projection_dim=16
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
        spread(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor_class(size={"height": 48, "width": 48}).save_pretrained(folder)
    return folder


@torch.no_grad()
def spread(model: torch.nn.Module) -> None:
    """Freshly initialized networks say nearly the same to everything."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "bbox_embed" not in name:
            parameter.normal_(std=0.3)


def _to_tensor(picture: PIL.Image.Image) -> torch.Tensor:
    return torch.from_numpy(numpy.array(picture)).permute(2, 0, 1) / 255


@lru_cache
def _make_torchvision_state(arch: str, num_classes: int, seed: int) -> dict[str, torch.Tensor]:
    from torchvision import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = models.get_model(arch, weights=None, weights_backbone=None, num_classes=num_classes)
        # Fresh normalization layers let nothing through that deep: they get the statistics of some noise.
        noise = torch.stack([_to_tensor(draw_picture(160, 160, i)) for i in range(2)])
        with torch.no_grad():
            for module in network.backbone.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.momentum = 1.0
            network.backbone.train()(noise)
            for name, parameter in network.named_parameters():
                if parameter.dim() > 1 and ("cls" in name or "classif" in name):
                    parameter.normal_(std=0.0005 if "roi_heads" in name else 0.02)
                elif "bbox" in name or "regression" in name:
                    parameter.mul_(0.02)  # boxes near the anchors, of which there are all sizes
    return network.state_dict()


def save_torchvision_detector(
    path: Path, arch: str = "fasterrcnn_mobilenet_v3_large_320_fpn", num_classes: int = 4, seed: int = 0
) -> Path:
    """The state dict of a detection network, as .pth or .safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = _make_torchvision_state(arch, num_classes, seed)
    if path.suffix == ".safetensors":
        import safetensors.torch

        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path
