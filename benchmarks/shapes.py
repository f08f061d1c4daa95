"""Architectures that the benchmarks need without their weights (the public config.json of each)."""

from espl_jax.policy.model import ModelSpec

SHAPES = {
    "qwen2.5-1.5b": ModelSpec(
        vocab_size=151936, width=1536, num_layers=28, num_heads=12, num_kv_heads=2, head_dim=128, mlp_width=8960,
        rope_theta=1e6, rope_scaling=None, norm_eps=1e-6, tied_head=True, qkv_bias=True, qk_norm=False, max_positions=32768,
    ),
    "qwen2.5-7b": ModelSpec(
        vocab_size=152064, width=3584, num_layers=28, num_heads=28, num_kv_heads=4, head_dim=128, mlp_width=18944,
        rope_theta=1e6, rope_scaling=None, norm_eps=1e-6, tied_head=False, qkv_bias=True, qk_norm=False, max_positions=32768,
    ),
    "qwen3-8b": ModelSpec(
        vocab_size=151936, width=4096, num_layers=36, num_heads=32, num_kv_heads=8, head_dim=128, mlp_width=12288,
        rope_theta=1e6, rope_scaling=None, norm_eps=1e-6, tied_head=False, qkv_bias=False, qk_norm=True, max_positions=40960,
    ),
}  # fmt: skip
