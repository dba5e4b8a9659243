"""Times the PyTorch port of the network in mt3-infer, with random weights.

Run by `benchmarks/transcribe.py --torch-python`, in an environment of its own that has
mt3-infer (0.2.0), torch, transformers and einops; this file imports nothing of mt3. The
port generates tokens with its own loop. Its weights are not ours and its tokens are
not compared: the figure is the time of that number of steps.
"""

from __future__ import annotations

import argparse
import statistics
import time


def main() -> int:
    """Prints one line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--segments", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    import torch
    from mt3_infer.models.mt3_pytorch.t5 import T5ForConditionalGeneration
    from transformers import T5Config

    config = T5Config(
        vocab_size=1536,
        d_model=512,
        d_kv=64,
        d_ff=1024,
        num_layers=8,
        num_decoder_layers=8,
        num_heads=6,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        pad_token_id=0,
        decoder_start_token_id=0,
        # No token ends a segment, so that all have the asked-for length.
        eos_token_id=1535,
    )
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config).eval()
    model.lm_head.weight.data[1535] = 0
    frames = torch.randn(options.segments, 256, 512)
    times = []
    with torch.no_grad():
        for _ in range(options.rounds + 1):
            start = time.perf_counter()
            ids = model.generate(frames, max_length=options.tokens)
            times.append(time.perf_counter() - start)
    seconds = statistics.median(times[1:])
    print(
        f"mt3-infer's PyTorch port: {seconds:.1f} s for {options.segments} segments of "
        f"{ids.shape[1]} tokens"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
