"""Models of images, sound and both with text, from transformers."""

from __future__ import annotations

from typing import Any

import torch
from support import draw
from zoo import ENCODER_DECODER, LENGTHS, VOCABULARY, Calls, Entry, ids, inputs, pretrained, sequences, texts

_SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_VIT = {**_SMALL, "image_size": 32, "patch_size": 8}
_STAGES: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
_WAVE: dict[str, Any] = {
    **_SMALL,
    "conv_dim": (8, 8),
    "conv_kernel": (6, 4),
    "conv_stride": (3, 2),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
_WHISPER: dict[str, Any] = {
    **ENCODER_DECODER,
    "num_mel_bins": 8,
    "max_source_positions": 20,
    "max_target_positions": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "use_cache": False,
}

_LAYOUT = {"max_position_embeddings": 64, "max_2d_position_embeddings": 64}
_SERIES: dict[str, Any] = {
    "num_input_channels": 3,
    "context_length": 32,
    "prediction_length": 8,
    "patch_length": 8,
    "patch_stride": 8,
    "d_model": 16,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "ffn_dim": 32,
    "scaling": "std",
}

_square = inputs((1, 3, 32, 32), (1, 3, 32, 32), (1, 3, 32, 32))
_images = inputs((1, 3, 32, 32), (1, 3, 64, 32), (1, 3, 32, 64))  # as the strides of the models like them
_waves = sequences(lengths=(160, 220, 120, 301, 400))


def _spoken() -> Calls:
    lengths = enumerate((3, 5, 1, 7, 3))
    return [
        {"input_features": draw(1, 8, 40, seed=seed), "decoder_input_ids": ids(1, length, seed=seed)}
        for seed, length in lengths
    ]


def _captioned() -> Calls:
    images = [draw(1, 3, 32, 32, seed=seed) for seed in range(2)]
    return [{**text, "pixel_values": images[number % 2]} for number, text in enumerate(texts())]


def _boxed() -> Calls:
    """Texts with the place on the page of each word."""
    return [{**text, "bbox": ids(1, *text["input_ids"].shape[1:], 1, below=30).repeat(1, 1, 4)} for text in texts()]


def _with_regions() -> Calls:
    """Texts with as many as 5 regions of an image."""
    return [{**text, "visual_embeds": draw(1, 2 + n % 4, 8, seed=n)} for n, text in enumerate(texts())]


def _episodes() -> Calls:
    return [
        {
            "states": draw(1, length, 4, seed=length),
            "actions": draw(1, length, 2, seed=length),
            "rewards": draw(1, length, 1, seed=length),
            "returns_to_go": draw(1, length, 1, seed=length + 1),
            "timesteps": torch.arange(length).unsqueeze(0),
            "attention_mask": torch.ones(1, length),
        }
        for length in LENGTHS
    ]


IMAGES = [
    Entry("vit for classes", pretrained("ViTForImageClassification", num_labels=4, **_VIT), _square),
    Entry("deit", pretrained("DeiTForImageClassificationWithTeacher", num_labels=4, **_VIT), _square),
    Entry("convnext", pretrained("ConvNextModel", num_stages=2, hidden_sizes=[8, 16], depths=[1, 1]), _images),
    Entry("resnet", pretrained("ResNetForImageClassification", num_labels=4, layer_type="basic", **_STAGES), _images),
    Entry(
        "swin",
        pretrained(
            "SwinModel", image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4
        ),
        _square,
    ),
    Entry(
        "segformer",
        pretrained(
            "SegformerForSemanticSegmentation",
            **{"num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [8, 16]},
            **{"patch_sizes": [7, 3], "strides": [4, 2], "num_attention_heads": [1, 2], "mlp_ratios": [2, 2]},
            **{"decoder_hidden_size": 8, "num_labels": 4},
        ),
        _images,
    ),
    Entry("poolformer", pretrained("PoolFormerModel", depths=[1, 1, 1, 1], hidden_sizes=[4, 8, 8, 8]), _images),
]

SOUNDS = [
    Entry("wav2vec2 for letters", pretrained("Wav2Vec2ForCTC", vocab_size=VOCABULARY, **_WAVE), _waves),
    Entry("hubert", pretrained("HubertModel", feat_extract_norm="layer", **_WAVE), _waves),
    Entry("wavlm", pretrained("WavLMModel", num_buckets=16, max_bucket_distance=20, **_WAVE), _waves),
    Entry("whisper", pretrained("WhisperForConditionalGeneration", **_WHISPER), _spoken),
    Entry(
        "whisper for classes",  # its encoder, pooled
        pretrained("WhisperForAudioClassification", num_labels=3, **_WHISPER),
        inputs((1, 8, 40), (1, 8, 40), (1, 8, 40)),
    ),
    Entry(
        "audio spectrogram transformer",
        pretrained("ASTModel", num_mel_bins=16, max_length=40, patch_size=8, **_SMALL),
        inputs((1, 40, 16), (1, 40, 16), (1, 40, 16)),
    ),
]

MIXED = [
    Entry(
        "clip",  # scores images against texts: calls merge where they pass the same image
        pretrained(
            "CLIPModel",
            text_config={**_SMALL, "vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
            vision_config=_VIT,
            projection_dim=8,
        ),
        _captioned,
    ),
    Entry("layoutlm", pretrained("LayoutLMModel", vocab_size=VOCABULARY, **_LAYOUT, **_SMALL), _boxed),
    Entry(
        "visual bert",
        pretrained("VisualBertModel", vocab_size=VOCABULARY, visual_embedding_dim=8, **_SMALL),
        _with_regions,
    ),
    Entry(
        "decision transformer",
        pretrained(
            "DecisionTransformerModel", state_dim=4, act_dim=2, hidden_size=16, n_layer=2, n_head=2, max_ep_len=32
        ),
        _episodes,
    ),
    Entry("patch-tst", pretrained("PatchTSTForPrediction", **_SERIES), inputs((1, 32, 3), (1, 32, 3), (1, 32, 3))),
]

MODELS = [*IMAGES, *SOUNDS, *MIXED]
