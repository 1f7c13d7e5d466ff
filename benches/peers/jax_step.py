#!/usr/bin/env python3
"""Whole training steps of tinygpt's model in JAX, timed: the step, optimizer included, is one jitted function.

  --mode plain   linear layers on [B, T, C], as one writes them
  --mode flat    linear layers on [B T, C]: on the CPU XLA multiplies two matrices faster than three dimensions by a matrix

Needs jax and numpy; README.md beside this file says more.
"""

import os
import sys

import common


def make_step(start, flat: bool):
    """(weights, m, v, number, ids, targets) -> (weights, m, v, loss), each of the first three a dict by name."""
    import jax
    import jax.numpy as jnp

    preset = start.preset
    b, t, c, h = preset.batch, preset.ctx, preset.d_model, preset.heads

    def linear(w, name, x):  # [B, T, I] -> [B, T, O]
        weight, bias = w[f"{name}.weight"], w.get(f"{name}.bias")
        x = x.reshape(b * t, -1) if flat else x
        y = x @ weight.T
        y = y if bias is None else y + bias
        return y.reshape(b, t, -1)

    def layer_norm(w, name, x):
        mean = x.mean(-1, keepdims=True)
        variance = jnp.square(x - mean).mean(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def attention(w, name, x):
        q, k, v = (linear(w, f"{name}.{p}_proj", x).reshape(b, t, h, c // h) for p in "qkv")
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)  # scale 1/sqrt(head_dim)
        return linear(w, f"{name}.o_proj", y.reshape(b, t, c))

    def mlp(w, name, x):
        hidden = jax.nn.gelu(linear(w, f"{name}.fc_in", x), approximate=preset.gelu == "tanh")
        return linear(w, f"{name}.fc_out", hidden)

    def loss_of(w, ids, targets):
        x = w["token_embedding.weight"][ids] + w["position_embedding.weight"]
        for layer in range(preset.layers):
            block = f"blocks.{layer}"
            x = x + attention(w, f"{block}.attn", layer_norm(w, f"{block}.ln1", x))
            x = x + mlp(w, f"{block}.mlp", layer_norm(w, f"{block}.ln2", x))
        logits = linear(w, "token_embedding", layer_norm(w, "ln_final", x))
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)
        return -chosen.mean()

    beta1, beta2 = start.betas

    def step(w, m, v, number, ids, targets):
        loss, grads = jax.value_and_grad(loss_of)(w, ids, targets)
        norm = jnp.sqrt(sum(jnp.square(g).sum() for g in grads.values()))
        clip = jnp.minimum(1.0, start.grad_clip / (norm + 1e-6))
        new_w, new_m, new_v = {}, {}, {}
        for name, weight in w.items():
            grad = grads[name] * clip
            new_m[name] = beta1 * m[name] + (1 - beta1) * grad
            new_v[name] = beta2 * v[name] + (1 - beta2) * grad * grad
            delta = (new_m[name] / (1 - beta1**number)) / (jnp.sqrt(new_v[name] / (1 - beta2**number)) + start.eps)
            decay = start.weight_decay if weight.ndim >= 2 else 0.0
            new_w[name] = weight * (1 - start.lr * decay) - start.lr * delta
        return new_w, new_m, new_v, loss

    return jax.jit(step, donate_argnums=(0, 1, 2))


class JaxTrainer(common.Trainer):
    def __init__(self, start, args):
        if args.device == "cpu":
            os.environ["JAX_PLATFORMS"] = "cpu"
            # XLA's CPU threads are as many as the cores it may use.
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
        else:
            os.environ["JAX_PLATFORMS"] = "cuda"
            # Other peers of a run are on the same GPU.
            os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
        try:
            import jax
            import jax.numpy as jnp
        except ImportError as error:
            sys.exit(f"jax_step.py: {sys.executable} cannot import jax ({error}): README.md beside this file sets one up")
        # By default f32 products are TF32 on a GPU that has it.
        jax.config.update("jax_default_matmul_precision", "highest")
        self.jnp = jnp
        self.versions = {"jax": jax.__version__}
        self.weights = {name: jnp.asarray(array) for name, array in start.weights().items()}
        self.params = sum(w.size for w in self.weights.values())
        self.m = {name: jnp.zeros_like(w) for name, w in self.weights.items()}
        self.v = {name: jnp.zeros_like(w) for name, w in self.weights.items()}
        self.number = 0
        self.run = make_step(start, args.mode == "flat")

    def set_batch(self, ids, targets):
        self.ids, self.targets = self.jnp.asarray(ids), self.jnp.asarray(targets)

    def step(self):
        self.number += 1
        number = self.jnp.float32(self.number)
        self.weights, self.m, self.v, self.last_loss = self.run(self.weights, self.m, self.v, number, self.ids, self.targets)

    def loss(self):
        return float(self.last_loss)


def main():
    flags = common.parser("Time training steps of tinygpt's model in JAX.")
    flags.add_argument("--mode", choices=("plain", "flat"), default="plain", help="default: plain")
    common.main(flags.parse_args(), JaxTrainer)


if __name__ == "__main__":
    main()
