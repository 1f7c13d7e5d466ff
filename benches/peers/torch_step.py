#!/usr/bin/env python3
"""Time one whole training step of tinygpt's model in PyTorch, on the CPU.

The peer that `tinygpt bench` is compared with. A step is what `tinygpt bench` times: forward, loss,
backward, global-norm clip at 1.0 and AdamW, on one fixed batch of synthetic bytes in float32. The model is
the byte-level GPT of this repository, spelled as PyTorch users would write it for speed:
scaled_dot_product_attention for attention and the fused AdamW.

Invariants:
- The parameter count of every preset equals the formula that the presets are documented by
  (V C + T C + 2 C + L (12 C^2 + 13 C)); a mismatch ends the run, since it would compare two models.
- One preset, one process: the peak resident memory belongs to that preset alone. Several presets run one
  after the other in child processes.
- Standard output carries only the results (with --json: one JSON object a line).

Needs torch; see README.md beside this file.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

WARMUP_STEPS = 5
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.1
GRAD_CLIP = 1.0


@dataclass(frozen=True)
class Preset:
    ctx: int
    layers: int
    heads: int
    d_model: int
    batch: int
    vocab: int = 256
    gelu: str = "none"  # torch's name for exact erf; "tanh" for GPT-2

    def params(self) -> int:
        c = self.d_model
        return self.vocab * c + self.ctx * c + 2 * c + self.layers * (12 * c * c + 13 * c)


PRESETS = {
    "tiny": Preset(ctx=32, layers=2, heads=3, d_model=48, batch=16),
    "small": Preset(ctx=64, layers=3, heads=3, d_model=96, batch=16),
    "standard": Preset(ctx=64, layers=3, heads=3, d_model=96, batch=16),
    "capable": Preset(ctx=96, layers=4, heads=3, d_model=96, batch=16),
    "medium": Preset(ctx=96, layers=4, heads=4, d_model=128, batch=16),
    "large": Preset(ctx=128, layers=6, heads=6, d_model=192, batch=12),
    "xl": Preset(ctx=128, layers=8, heads=8, d_model=256, batch=8),
    "huge": Preset(ctx=256, layers=12, heads=8, d_model=256, batch=8),
    "massive": Preset(ctx=256, layers=14, heads=12, d_model=384, batch=4),
    "mega": Preset(ctx=512, layers=14, heads=12, d_model=384, batch=2),
    "behemoth": Preset(ctx=512, layers=24, heads=20, d_model=1280, batch=1),
    # GPT-2 124M; 50257 tokens padded to 50304, a multiple of 128.
    "gpt2": Preset(ctx=1024, layers=12, heads=12, d_model=768, batch=8, vocab=50304, gelu="tanh"),
}


def build_model(preset: Preset):
    """The GPT as an nn.Module: ids [B, T] i64, targets [B, T] i64 -> mean cross-entropy, a scalar."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            c = preset.d_model
            self.q_proj = nn.Linear(c, c)
            self.k_proj = nn.Linear(c, c)
            self.v_proj = nn.Linear(c, c)
            self.o_proj = nn.Linear(c, c)

        def forward(self, x):  # [B, T, C] -> [B, T, C]
            b, t, c = x.shape
            h = preset.heads

            def split(y):  # [B, T, C] -> [B, H, T, C/H]
                return y.view(b, t, h, c // h).transpose(1, 2)

            q, k, v = split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x))
            # The default scale is 1/sqrt(head_dim), the model's.
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.o_proj(y.transpose(1, 2).reshape(b, t, c))

    class Mlp(nn.Module):
        def __init__(self):
            super().__init__()
            c = preset.d_model
            self.fc_in = nn.Linear(c, 4 * c)
            self.fc_out = nn.Linear(4 * c, c)

        def forward(self, x):
            return self.fc_out(F.gelu(self.fc_in(x), approximate=preset.gelu))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln1 = nn.LayerNorm(preset.d_model, eps=1e-5)
            self.attn = Attention()
            self.ln2 = nn.LayerNorm(preset.d_model, eps=1e-5)
            self.mlp = Mlp()

        def forward(self, x):
            x = x + self.attn(self.ln1(x))
            return x + self.mlp(self.ln2(x))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.token_embedding = nn.Embedding(preset.vocab, preset.d_model)
            self.position_embedding = nn.Embedding(preset.ctx, preset.d_model)
            self.blocks = nn.ModuleList(Block() for _ in range(preset.layers))
            self.ln_final = nn.LayerNorm(preset.d_model, eps=1e-5)
            self.register_buffer("positions", torch.arange(preset.ctx), persistent=False)

        def forward(self, ids, targets):
            x = self.token_embedding(ids) + self.position_embedding(self.positions)
            for block in self.blocks:
                x = block(x)
            # Tied head: the token embedding is the output matrix, without bias.
            logits = F.linear(self.ln_final(x), self.token_embedding.weight)
            return F.cross_entropy(logits.view(-1, preset.vocab), targets.view(-1))

    model = Gpt()
    residual_std = 0.02 / math.sqrt(2 * preset.layers)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() >= 2:
                residual = name.endswith(("o_proj.weight", "fc_out.weight"))
                p.normal_(0.0, residual_std if residual else 0.02)
            elif name.endswith("bias"):
                p.zero_()
    return model


def measure(name: str, steps: int, threads: int, compile_model: bool) -> dict:
    """Run WARMUP_STEPS and then `steps` timed steps of preset `name` in this process."""
    # Before torch is loaded: OpenMP and MKL read it once.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        import torch
        from torch import nn
    except ImportError as error:
        sys.exit(f"torch_step.py: {sys.executable} cannot import torch ({error}): README.md beside this file sets one up")

    torch.set_num_threads(threads)
    torch.manual_seed(42)
    preset = PRESETS[name]

    model = build_model(preset)
    params = sum(p.numel() for p in model.parameters())
    if params != preset.params():
        sys.exit(f"torch_step.py: preset {name} has {params} parameters, expected {preset.params()}: the model is not tinygpt's")

    weights = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}],
        lr=LEARNING_RATE,
        betas=(0.9, 0.95),
        eps=1e-8,
        fused=True,
    )
    forward = torch.compile(model) if compile_model else model

    ids = torch.randint(0, preset.vocab, (preset.batch, preset.ctx + 1))
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = forward(inputs, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        optimizer.step()
        return loss.item()

    start = time.perf_counter()
    step()
    first_step_s = time.perf_counter() - start
    for _ in range(WARMUP_STEPS - 1):
        step()

    times_ms = []
    for _ in range(steps):
        start = time.perf_counter()
        loss = step()
        times_ms.append(1e3 * (time.perf_counter() - start))
        if not math.isfinite(loss):
            sys.exit(f"torch_step.py: preset {name}: the loss is {loss}, so the timing is of no training step")
    times_ms.sort()

    # ru_maxrss is in KiB on Linux and in bytes on macOS (getrusage(2)).
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rss_mib = rss / 2**20 if sys.platform == "darwin" else rss / 2**10
    median = statistics.median(times_ms)
    return {
        "preset": name,
        "backend": "torch-cpu",
        "torch": torch.__version__,
        "compile": compile_model,
        "threads": torch.get_num_threads(),
        "params": params,
        "steps": steps,
        "first_step_s": round(first_step_s, 3),
        "ms_per_step": {
            "median": round(median, 3),
            "min": round(times_ms[0], 3),
            "p90": round(times_ms[math.ceil(0.9 * len(times_ms)) - 1], 3),  # nearest rank
        },
        "tokens_per_s": round(1e3 * preset.batch * preset.ctx / median, 1),
        "peak_rss_mib": round(rss_mib, 1),
    }


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"found {value}, expected a whole number of at least 1")
    return value


def preset_names(text: str) -> list:
    names = text.split(",")
    for name in names:
        if name not in PRESETS:
            raise argparse.ArgumentTypeError(f"no preset is called {name!r}; there are {', '.join(PRESETS)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description="Time training steps of tinygpt's model in PyTorch on the CPU.")
    parser.add_argument("--preset", type=preset_names, default=["small"], metavar="P[,P..]", help="default: small")
    parser.add_argument("--threads", type=positive, default=os.cpu_count(), metavar="N", help="default: every core")
    parser.add_argument("--steps", type=positive, default=20, metavar="N", help="timed steps, after 5 untimed ones (default: 20)")
    parser.add_argument("--compile", type=int, choices=(0, 1), default=0, help="1: torch.compile (needs a C++ compiler)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()

    if len(args.preset) > 1:
        for name in args.preset:
            child = [sys.executable, os.path.abspath(__file__), "--preset", name, "--threads", str(args.threads)]
            child += ["--steps", str(args.steps), "--compile", str(args.compile)] + ["--json"] * args.json
            status = subprocess.run(child).returncode
            if status != 0:
                return status
        return 0

    result = measure(args.preset[0], args.steps, args.threads, bool(args.compile))
    if args.json:
        print(json.dumps(result), flush=True)
    else:
        ms = result["ms_per_step"]
        print(
            f"{result['preset']}: median {ms['median']} ms/step, min {ms['min']}, p90 {ms['p90']}; "
            f"{result['params']} params, {result['threads']} threads, peak RSS {result['peak_rss_mib']} MiB, "
            f"torch {result['torch']}{' compiled' if result['compile'] else ''}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
