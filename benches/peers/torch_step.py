#!/usr/bin/env python3
"""Whole training steps of tinygpt's model in PyTorch, timed.

A step is what `tinygpt bench` times: forward, loss, backward, global-norm clip and AdamW. The model is the GPT of this repository,
spelled as PyTorch users write it for speed: scaled_dot_product_attention and the fused AdamW.

  --mode eager     as written
  --mode compile   the model through torch.compile (needs a C++ compiler for the CPU)
  --mode graph     likewise, and the whole step, optimizer included, as one CUDA graph; needs --device cuda

Needs torch and numpy; README.md beside this file says more.
"""

import math
import os
import sys

import common
from common import Preset


def build_model(preset: Preset):
    """The GPT as an nn.Module: ids [B, T] i64, targets [B, T] i64 -> mean cross-entropy, a scalar."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    gelu = {"erf": "none", "tanh": "tanh"}[preset.gelu]

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
            return self.fc_out(F.gelu(self.fc_in(x), approximate=gelu))

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


class TorchTrainer(common.Trainer):
    def __init__(self, start, args):
        # Before torch is loaded: OpenMP and MKL read it once.
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
        try:
            import torch
        except ImportError as error:
            sys.exit(f"torch_step.py: {sys.executable} cannot import torch ({error}): README.md beside this file sets one up")
        self.torch = torch
        torch.set_num_threads(args.threads)
        # "highest" is f32 as it is; "high" lets products be TF32.
        torch.set_float32_matmul_precision("high" if args.precision == "tf32" else "highest")
        self.versions = {"torch": torch.__version__}
        if args.device == "cuda":
            self.versions["cuda"] = torch.version.cuda
        self.grad_clip, self.device = start.grad_clip, args.device
        self.bf16 = args.precision == "bf16"

        self.model = build_model(start.preset)
        self.weights = {name: torch.from_numpy(array) for name, array in start.weights().items()}
        self.model.load_state_dict(self.weights)  # strict: exactly these names and shapes
        self.model.to(args.device)
        if args.mode != "graph":
            self.weights = None
        self.params = sum(p.numel() for p in self.model.parameters())
        matrices = [p for p in self.model.parameters() if p.dim() >= 2]
        others = [p for p in self.model.parameters() if p.dim() < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": start.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=start.lr,
            betas=start.betas,
            eps=start.eps,
            fused=True,
            capturable=args.mode == "graph",
        )
        self.forward = self.model if args.mode == "eager" else torch.compile(self.model)
        shape = (start.preset.batch, start.preset.ctx)
        self.ids, self.targets = (torch.zeros(shape, dtype=torch.int64, device=args.device) for _ in range(2))
        self.last_loss = None
        self.graph = None
        if args.mode == "graph":
            self.capture()

    def set_batch(self, ids, targets):
        self.ids.copy_(self.torch.from_numpy(ids))
        self.targets.copy_(self.torch.from_numpy(targets))

    def step(self):
        if self.graph is not None:
            self.graph.replay()
        else:
            self.step_of_parts()

    def loss(self):
        return self.last_loss.item()

    def step_of_parts(self):
        self.optimizer.zero_grad(set_to_none=True)
        with self.torch.autocast(self.device, self.torch.bfloat16, enabled=self.bf16):
            self.last_loss = self.forward(self.ids, self.targets)
        self.last_loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip)
        self.optimizer.step()

    def capture(self):
        """Record the step as a CUDA graph, after a few that are run as they must be (and then undone)."""
        torch = self.torch
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step_of_parts()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step_of_parts()
        self.graph = graph
        # The graph holds the addresses of weights and moments: they are set in place.
        with torch.no_grad():
            self.model.load_state_dict(self.weights)
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()
        self.weights = None


def main():
    flags = common.parser("Time training steps of tinygpt's model in PyTorch.")
    flags.add_argument("--mode", choices=("eager", "compile", "graph"), default="eager", help="default: eager")
    flags.add_argument("--precision", choices=("f32", "tf32", "bf16"), default="f32", help="of products; default: f32")
    args = flags.parse_args()
    if args.mode == "graph" and args.device != "cuda":
        flags.error("--mode graph needs --device cuda: CUDA graphs are a GPU's")
    common.main(args, TorchTrainer)


if __name__ == "__main__":
    main()
