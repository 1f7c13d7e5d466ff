"""The PyTorch side of tests/all/formats.rs: plain PyTorch, with the model of benches/peers/torch_step.py.

  versions                    print what is installed, or fail
  logits MODEL.st IDS.json    print the logits of one row of tokens, loaded by safetensors.torch.load_file
  train OUT.st                save a model that was trained a little; print its heads and its loss on the text beside it
  pickle OUT.pt               save a model with torch.save
  gpt2 DIR IDS.json           print the logits of the folder as transformers loads it
"""

import json
import os
import sys

sys.path.insert(0, os.environ["TINYGPT_PEERS"])


def build(ctx, layers, heads, d_model):
    from torch_step import Preset, build_model

    return build_model(Preset(ctx=ctx, layers=layers, heads=heads, d_model=d_model, batch=1))


def model_logits(model, ids):
    """[B, T] -> [B, T, V]: what the head gives, caught at the last norm."""
    import torch

    caught = []
    handle = model.ln_final.register_forward_hook(lambda _module, _inputs, output: caught.append(output))
    with torch.no_grad():
        model(ids, ids)
    handle.remove()
    return caught[0] @ model.token_embedding.weight.T


def windows_loss(model, text, ctx):
    """Mean loss in nats of every byte but the first, in consecutive windows of ctx, as `tinygpt eval` takes it."""
    import torch
    from torch.nn import functional as F

    total, count = 0.0, 0
    for start in range(0, len(text) - 1, ctx):
        part = list(text[start : start + ctx + 1])
        n = len(part) - 1
        ids = torch.tensor([part[:n] + [0] * (ctx - n)])
        logits = model_logits(model, ids)[0, :n].double()
        total += F.cross_entropy(logits, torch.tensor(part[1:]), reduction="sum").item()
        count += n
    return total / count


def main():
    mode, *args = sys.argv[1:]
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(7)
    if mode == "versions":
        import safetensors.torch

        print(torch.__version__)
    elif mode == "logits":
        from safetensors.torch import load_file

        path, ids = args
        state = load_file(path)
        ids = torch.tensor([json.load(open(ids))])
        layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
        ctx, d_model = state["position_embedding.weight"].shape
        model = build(ctx, layers, int(os.environ["HEADS"]), d_model)
        model.load_state_dict(state)  # strict: exactly these names and shapes
        print(json.dumps(model_logits(model, ids).flatten().tolist()))
    elif mode in ("train", "pickle"):
        from safetensors.torch import save_file

        ctx, heads = 16, 2
        model = build(ctx, layers=2, heads=heads, d_model=24)
        text = open("text.txt", "rb").read()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(30):
            at = torch.randint(0, len(text) - ctx - 1, (8,)).tolist()
            ids = torch.tensor([list(text[a : a + ctx]) for a in at])
            targets = torch.tensor([list(text[a + 1 : a + ctx + 1]) for a in at])
            optimizer.zero_grad()
            model(ids, targets).backward()
            optimizer.step()
        if mode == "pickle":
            torch.save(model.state_dict(), args[0])
            return
        save_file(model.state_dict(), args[0])
        print(json.dumps({"heads": heads, "loss": windows_loss(model, text, ctx)}))
    elif mode == "gpt2":
        from transformers import GPT2LMHeadModel

        model, report = GPT2LMHeadModel.from_pretrained(args[0], output_loading_info=True)
        bad = {key: list(report[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if report[key]}
        missing = [key for key in bad.get("missing_keys", []) if key != "lm_head.weight"]
        if missing or set(bad) - {"missing_keys"}:
            sys.exit(f"transformers reports {bad}")
        model.eval()
        ids = torch.tensor([json.load(open(args[1]))])
        with torch.no_grad():
            print(json.dumps(model(ids).logits.flatten().tolist()))
    else:
        sys.exit(f"found {mode!r}, expected one of the modes of {__file__}")


main()
