"""Models of text from transformers: encoders, decoders without a cache, encoder-decoders, mixtures of experts."""

from __future__ import annotations

from typing import Any

from zoo import ENCODER_DECODER, TEXT_PAD, VOCABULARY, Entry, bare_texts, pretrained, text_pairs, texts

_SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
_BERT = {**_SMALL, "max_position_embeddings": 64}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # the defaults of some are beyond the vocabulary
_LLAMA = {**_BERT, **_SPECIAL, "num_attention_heads": 4, "num_key_value_heads": 2, "use_cache": False}
_GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
    "use_cache": False,
    **_SPECIAL,
}
_BART: dict[str, Any] = {
    **ENCODER_DECODER,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    "use_cache": False,
    **_SPECIAL,
}
_T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "use_cache": False,
}
_PAD = {"pad": TEXT_PAD}

ENCODERS = [
    Entry("bert", pretrained("BertModel", **_BERT), texts, **_PAD),
    Entry("bert for sequences", pretrained("BertForSequenceClassification", num_labels=3, **_BERT), texts, **_PAD),
    # Installs hooks at its first call, which do nothing but collect.
    Entry("bert with all its states", pretrained("BertModel", output_hidden_states=True, **_BERT), texts, **_PAD),
    Entry("bert for masked words", pretrained("BertForMaskedLM", **_BERT), texts, **_PAD),
    Entry("roberta for tokens", pretrained("RobertaForTokenClassification", num_labels=5, **_BERT), texts, **_PAD),
    Entry(
        "distilbert",
        pretrained("DistilBertModel", vocab_size=VOCABULARY, dim=16, hidden_dim=32, n_layers=2, n_heads=2),
        texts,
        **_PAD,
    ),
    Entry("albert", pretrained("AlbertModel", embedding_size=8, **_BERT), texts, **_PAD),
    Entry("electra", pretrained("ElectraModel", embedding_size=8, **_BERT), texts, **_PAD),
    Entry("mpnet", pretrained("MPNetModel", **_BERT), texts, **_PAD),
    Entry(
        "deberta-v2",
        pretrained("DebertaV2Model", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8, **_BERT),
        texts,
        **_PAD,
    ),
    Entry(
        "modernbert for sequences",
        pretrained(
            "ModernBertForSequenceClassification",
            local_attention=8,
            cls_token_id=1,
            sep_token_id=2,
            **_BERT,
            **_SPECIAL,
        ),
        texts,
        **_PAD,
    ),
    Entry("fnet", pretrained("FNetModel", tpu_short_seq_length=8, **_SMALL), bare_texts),
    Entry("roformer", pretrained("RoFormerModel", embedding_size=8, **_BERT), texts, **_PAD),
    Entry(
        "longformer",  # pads inside to a multiple of its window, and looks which positions are global
        pretrained("LongformerModel", attention_window=4, pad_token_id=1, **_BERT),
        texts,
        expect="no graph",
        **_PAD,
    ),
    Entry("t5 encoder", pretrained("T5EncoderModel", **_T5), texts, **_PAD),
    Entry(
        "clip text",
        pretrained("CLIPTextModelWithProjection", projection_dim=8, **_BERT, **_SPECIAL),
        texts,
        **_PAD,
    ),
]

DECODERS = [
    Entry("gpt2", pretrained("GPT2LMHeadModel", **_GPT2), texts, **_PAD),
    Entry("gpt2 for sequences", pretrained("GPT2ForSequenceClassification", num_labels=3, **_GPT2), texts, **_PAD),
    Entry("gpt-neox", pretrained("GPTNeoXForCausalLM", use_cache=False, **_BERT, **_SPECIAL), texts, **_PAD),
    Entry(
        "opt",
        pretrained("OPTForCausalLM", ffn_dim=32, word_embed_proj_dim=16, use_cache=False, **_BERT, **_SPECIAL),
        texts,
        **_PAD,
    ),
    Entry("llama", pretrained("LlamaForCausalLM", **_LLAMA), texts, **_PAD),
    Entry("llama for sequences", pretrained("LlamaForSequenceClassification", num_labels=3, **_LLAMA), texts, **_PAD),
    Entry("mistral with a window", pretrained("MistralForCausalLM", sliding_window=5, **_LLAMA), texts, **_PAD),
    Entry("qwen2 without a mask", pretrained("Qwen2ForCausalLM", **_LLAMA), bare_texts),
    Entry("qwen3", pretrained("Qwen3ForCausalLM", head_dim=4, **_LLAMA), texts, **_PAD),
    Entry("phi", pretrained("PhiForCausalLM", **_LLAMA), texts, **_PAD),
    Entry("gemma2", pretrained("Gemma2ForCausalLM", head_dim=4, sliding_window=5, **_LLAMA), texts, **_PAD),
    Entry(
        "bloom",
        pretrained("BloomForCausalLM", vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2, use_cache=False),
        texts,
        **_PAD,
    ),
    Entry("falcon", pretrained("FalconForCausalLM", use_cache=False, **_SMALL, **_SPECIAL), texts, **_PAD),
    Entry("mamba", pretrained("MambaForCausalLM", state_size=4, use_cache=False, **_SMALL, **_SPECIAL), bare_texts),
]

ENCODER_DECODERS = [
    Entry("t5", pretrained("T5ForConditionalGeneration", **_T5), text_pairs, **_PAD),
    Entry("bart", pretrained("BartModel", **_BART), text_pairs, **_PAD),
]

EXPERTS = [
    Entry("mixtral", pretrained("MixtralForCausalLM", num_local_experts=4, **_LLAMA), texts, **_PAD),
    Entry(
        "qwen2-moe",
        pretrained(
            "Qwen2MoeForCausalLM", num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16, **_LLAMA
        ),
        texts,
        **_PAD,
    ),
    Entry(
        "switch transformers",  # converts its router's weights in forward
        pretrained("SwitchTransformersEncoderModel", num_experts=4, num_sparse_encoder_layers=1, **_T5),
        texts,
        expect="no graph",
        **_PAD,
    ),
]

MODELS = [*ENCODERS, *DECODERS, *ENCODER_DECODERS, *EXPERTS]
