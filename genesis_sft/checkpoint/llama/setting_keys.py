"""How pretraining codes spell a model's settings: Meta's llama, transformers, nanoGPT, LitGPT, Megatron, torchtune."""

from __future__ import annotations

from typing import Literal

from genesis_sft.checkpoint.llama.name_parts import words

Field = Literal[
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "hidden_size",
    "num_layers",
    "ffn_size",
    "vocab_size",
    "context",
    "rope_theta",
    "norm_eps",
    "embedding_scale",
    "rope_layout",
    "tied",
    "bos",
]

SPELLINGS: dict[Field, str] = {
    "num_heads": "n_heads num_heads num_attention_heads n_head heads num_q_heads n_q_heads attention_heads",
    "num_kv_heads": "n_kv_heads num_kv_heads num_key_value_heads n_kv_head kv_heads n_query_groups num_query_groups "
    "num_kv_groups multi_query_group_num",
    "head_dim": "head_dim head_size d_head dim_head kv_channels",
    "hidden_size": "dim hidden_size d_model n_embd emb_dim embed_dim model_dim embedding_dim n_embed",
    "num_layers": "n_layers num_layers num_hidden_layers n_layer depth num_decoder_layers",
    "ffn_size": "ffn_dim intermediate_size ffn_hidden ffn_hidden_size ffn_size d_ff mlp_dim n_inner intermediate_dim "
    "ffn_hidden_dim feed_forward_dim mlp_hidden_dim",
    "vocab_size": "vocab_size n_vocab vocabulary_size",
    "context": "context max_seq_len max_position_embeddings block_size seq_len sequence_length context_length n_ctx "
    "max_sequence_length n_positions context_size ctx_len max_seq_length seq_length",
    "rope_theta": "rope_theta rope_base theta rotary_emb_base rotary_base rope_freq_base",
    "norm_eps": "norm_eps rms_norm_eps layer_norm_eps layernorm_epsilon layer_norm_epsilon rmsnorm_eps norm_epsilon "
    "rms_eps",
    "embedding_scale": "embedding_scale embedding_multiplier scale_embeddings scale_emb embed_scale",
    "rope_layout": "rope_interleaved rope_layout rotary_interleaved rope_interleave rope_style is_neox_style "
    "rope_is_neox_style",
    "tied": "tie_word_embeddings tie_embeddings weight_tying tied tie_weights tied_embeddings tie_embedding "
    "share_embeddings tied_weights untie_embeddings_and_output_weights",
    "bos": "bos add_bos prepend_bos add_bos_token use_bos",
}
FIELD_OF: dict[str, Field] = {key: field for field, keys in SPELLINGS.items() for key in keys.split()}
NEGATED = frozenset({"untie_embeddings_and_output_weights"})
NEOX_FLAGS = frozenset({"is_neox_style", "rope_is_neox_style"})

# the hidden size in some codes; in Meta's and others, which have another key for that, the width of the FFN
HIDDEN_OR_FFN = "hidden_dim"

# where settings lie, one or two levels down
SECTIONS = words(
    "model model_args model_config model_params architecture arch config params args hparams hyper_parameters "
    "hyperparameters network transformer text_config llama gpt cfg model_cfg model_kwargs"
)
DATA_SECTIONS = frozenset({"tokenizer", "data", "dataset", "tokenizer_config"})  # which may speak of BOS
ROPE_SECTIONS = frozenset({"rope_parameters", "rope", "rope_config", "rotary"})
