"""Tiny vision models of transformers with random weights, saved to disk as the hub has them."""

from pathlib import Path

import torch
import transformers

# Random weights as large as these make features that differ from picture to picture.
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
VIT_SIZES = {**SIZES, "image_size": 32, "patch_size": 8, "initializer_range": 0.2}


def save_clip_vision(folder: Path) -> Path:
    config = transformers.CLIPVisionConfig(**_clip_vision())
    return _save(folder, transformers.CLIPVisionModel, config, _clip_processor())


def save_clip(folder: Path) -> Path:
    """Text and pictures."""
    text = {**SIZES, "vocab_size": 50, "max_position_embeddings": 10, "eos_token_id": 49}
    config = transformers.CLIPConfig(text_config=text, vision_config=_clip_vision(), projection_dim=16)
    return _save(folder, transformers.CLIPModel, config, _clip_processor())


def save_siglip(folder: Path) -> Path:
    """Text and pictures."""
    text = {**SIZES, "vocab_size": 50, "max_position_embeddings": 10}
    vision = {**SIZES, "image_size": 32, "patch_size": 8}
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    processor = transformers.SiglipImageProcessor(size={"height": 32, "width": 32})
    return _save(folder, transformers.SiglipModel, config, processor)


def save_dinov2(folder: Path) -> Path:
    """As the published ones, made for larger pictures (here 6 x 6 patches) than are prepared for it."""
    sizes = {**VIT_SIZES, "image_size": 48}
    del sizes["intermediate_size"]
    config = transformers.Dinov2Config(**sizes, mlp_ratio=2)
    return _save(folder, transformers.Dinov2Model, config, _dinov2_processor())


def save_dinov2_with_registers(folder: Path) -> Path:
    sizes = {**VIT_SIZES}
    del sizes["intermediate_size"]
    config = transformers.Dinov2WithRegistersConfig(**sizes, mlp_ratio=2, num_register_tokens=3)
    return _save(folder, transformers.Dinov2WithRegistersModel, config, _dinov2_processor())


def save_vit(folder: Path) -> Path:
    """A classifier: its weights have a prefix, and no pooler."""
    config = transformers.ViTConfig(**VIT_SIZES, num_labels=3)
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    return _save(folder, transformers.ViTForImageClassification, config, processor)


def save_deit(folder: Path) -> Path:
    config = transformers.DeiTConfig(**VIT_SIZES, num_labels=3)
    processor = transformers.DeiTImageProcessor(
        size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}
    )
    return _save(folder, transformers.DeiTForImageClassificationWithTeacher, config, processor)


def save_beit(folder: Path) -> Path:
    config = transformers.BeitConfig(**VIT_SIZES, use_relative_position_bias=True, num_labels=3)
    processor = transformers.BeitImageProcessor(
        size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}
    )
    return _save(folder, transformers.BeitForImageClassification, config, processor)


def save_resnet(folder: Path) -> Path:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic"
    )
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875)
    return _save(folder, transformers.ResNetForImageClassification, config, processor)


def save_convnext(folder: Path) -> Path:
    config = transformers.ConvNextConfig(
        hidden_sizes=[8, 32], depths=[1, 1], num_stages=2, image_size=32, initializer_range=0.2
    )
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 384})
    return _save(folder, transformers.ConvNextModel, config, processor)


def save_bert(folder: Path) -> Path:
    """No vision model."""
    config = transformers.BertConfig(**SIZES, vocab_size=50)
    return _save(folder, transformers.BertModel, config, None)


SAVED = {
    "clip_vision": save_clip_vision,
    "clip": save_clip,
    "siglip": save_siglip,
    "dinov2": save_dinov2,
    "dinov2_with_registers": save_dinov2_with_registers,
    "vit": save_vit,
    "deit": save_deit,
    "beit": save_beit,
    "resnet": save_resnet,
    "convnext": save_convnext,
}


def _clip_vision() -> dict:
    return {**SIZES, "image_size": 32, "patch_size": 8, "initializer_factor": 5.0}


def _clip_processor():
    return transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def _dinov2_processor():
    return transformers.BitImageProcessor(
        size={"shortest_edge": 36},
        crop_size={"height": 32, "width": 32},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )


def _save(folder: Path, model_class, config, processor) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model_class(config).save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder
