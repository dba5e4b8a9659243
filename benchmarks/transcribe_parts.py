"""The parts of `benchmarks/transcribe.py`."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import soundfile

from benchmarks import decoding_costs, limits, op_profile, plain_decoder
from benchmarks.forced_lengths import ForcedLengths
from mt3 import checkpoints, configs, decoding, inference, network
from mt3.decoding import steps as decoding_steps
from mt3.decoding.stream import SegmentDecoder, default_num_slots
from mt3.midi import reader
from mt3.scoring import counts

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "example.flac"
_DTYPES = ("float32", "bfloat16")
MT3 = network.T5Config.from_dict(configs.MT3.network)
FRAMES = configs.MT3.inputs_length
SECONDS = configs.MT3.segment_seconds
# Tokens a segment when a band plays: many segments with some, few with very many.
MUSIC = (60, 110, 150, 90, 320, 180, 75, 210, 130, 95, 480, 160, 100, 240, 140, 700)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Runs parts in order; returns their figures by part."""
    print(
        f"{jax.devices()[0].device_kind}, {len(os.sched_getaffinity(0))} cores, "
        f"jax {jax.__version__}, {time.strftime('%Y-%m-%d')}"
    )
    limit = limits.measure()
    print(
        f"limits: {limit.flops / 1e9:.0f} GFLOP/s in matrix products, "
        f"{limit.bytes / 1e9:.1f} GB/s from memory"
    )
    figures: dict[str, Any] = {"limits": limit._asdict()}
    for part in options.parts:
        print(f"\n## {part}", flush=True)
        figures[part] = _PARTS[part](options, limit)
    return figures


@functools.cache
def random_model() -> dict[str, Any]:
    """Returns parameters of the `mt3` size, drawn at random."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    init = functools.partial(network.Transformer(MT3).init, enable_dropout=False)
    frames = jnp.zeros((1, 1, MT3.input_depth))
    return jax.jit(init)(jax.random.key(0), frames, tokens, tokens)["params"]


def random_frames(count: int) -> np.ndarray:
    """Returns segments [count, FRAMES, input_depth] that differ."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, FRAMES, MT3.input_depth)).astype(np.float32)


def seconds_of(function: Callable[[], Any]) -> tuple[float, Any]:
    """Returns how long a call took, and what it returned."""
    start = time.perf_counter()
    result = jax.block_until_ready(function())
    return time.perf_counter() - start, result


def take_turns(
    functions: dict[str, Callable[[], Any]], rounds: int
) -> dict[str, list[float]]:
    """Calls all functions in each round; returns their times."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(seconds_of(function)[0])
    return times


def streamed(decoder: SegmentDecoder, frames: np.ndarray) -> list[np.ndarray]:
    """Decodes segments; returns ids in their order."""
    results = {result.key: result.ids for result in decoder.run(enumerate(frames))}
    return [results[key] for key in range(len(frames))]


def encoded(decoder: SegmentDecoder, frames: np.ndarray) -> None:
    """Encodes segments as decoding them does, and throws the result away."""
    batch = decoder.options.encode_batch
    for first in range(0, len(frames), batch):
        jax.block_until_ready(decoder.program.encode(frames[first : first + batch]))


def require_equal(ours: list[np.ndarray], theirs: list[np.ndarray], what: str) -> int:
    """Raises unless tokens are equal; returns how many there are."""
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if not np.array_equal(a, b):
            raise SystemExit(f"{what}: segment {number} has other tokens: {a} and {b}")
    return sum(len(ids) for ids in ours)


def forced(options: argparse.Namespace, limit: limits.Limits) -> list[dict[str, Any]]:
    """Eight segments of given lengths, and many that end at different lengths."""
    rows = []
    cases = [(str(n), (n,), options.segments) for n in options.tokens]
    if options.music:
        cases.append(("as music", MUSIC, len(MUSIC)))
    for name, lengths, count in cases:
        rows.append(_forced_case(name, lengths, count, options, limit))
        if options.torch_python and len(lengths) == 1:
            _torch_port(options.torch_python, lengths[0], count)
    return rows


def _forced_case(
    name: str,
    lengths: tuple[int, ...],
    count: int,
    options: argparse.Namespace,
    limit: limits.Limits,
) -> dict[str, Any]:
    params, frames = random_model(), random_frames(count)
    strategy = ForcedLengths(lengths)
    decoder = SegmentDecoder(
        params,
        MT3,
        decoding.DecodeOptions(
            strategy=strategy, num_slots=min(count, default_num_slots())
        ),
    )
    plain = plain_decoder.PlainDecoder(params, MT3, strategy)
    ours, theirs = streamed(decoder, frames), plain.run(frames)  # Compiles, too.
    tokens = require_equal(ours, theirs, f"{name} tokens")
    functions = {
        "encoder": lambda: encoded(decoder, frames),
        "whole": lambda: streamed(decoder, frames),
        "plain": lambda: plain.run(frames),
    }
    search = plain_decoder.t5x_decoder(params, MT3, lengths)
    if search is not None:
        require_equal(ours, search(frames), f"{name} tokens, T5X's search")
        functions["t5x"] = lambda: search(frames)
    times = take_turns(functions, options.rounds)
    median = {key: statistics.median(value) for key, value in times.items()}
    decoder_seconds = median["whole"] - median["encoder"]
    audio = count * SECONDS
    each = [lengths[i % len(lengths)] for i in range(count)]
    mean = sum(each) / count
    attended = sum(n * n / 2 for n in each) / sum(each)
    encoder_flops = count * decoding_costs.encoder_flops(MT3, FRAMES)
    flops = encoder_flops + tokens * decoding_costs.step_flops(MT3, FRAMES, attended)
    slots = decoder.num_slots
    traffic = (
        tokens / slots * decoding_costs.step_bytes(MT3, FRAMES, attended, rows=slots)
    )
    row = {
        "tokens": name,
        "segments": count,
        "equal_tokens": tokens,
        **{key: round(value, 3) for key, value in median.items()},
        "ratio": median["plain"] / median["whole"],
        "ratios": [p / w for p, w in zip(times["plain"], times["whole"], strict=True)],
        "real_time": audio / median["whole"],
        "tokens_per_second": tokens / decoder_seconds,
        "encoder_flops_share": encoder_flops / median["encoder"] / limit.flops,
        "decoder_bytes_share": traffic / decoder_seconds / limit.bytes,
        "floor": encoder_flops / limit.flops + traffic / limit.bytes,
        "flops_share": flops / median["whole"] / limit.flops,
    }
    print(
        f"{name} tokens, {count} segments ({audio:.1f} s), {mean:.0f} tokens each, "
        f"{slots} slots, all {tokens} tokens equal\n"
        f"  plain {median['plain']:.1f} s, ours {median['whole']:.1f} s: "
        f"{row['ratio']:.1f} times ({min(row['ratios']):.1f} to "
        f"{max(row['ratios']):.1f}); {row['real_time']:.1f} times real time\n"
        f"  encoder {median['encoder']:.2f} s, {row['encoder_flops_share']:.0%} of the "
        f"machine's FLOP/s; decoder {decoder_seconds:.1f} s, "
        f"{row['tokens_per_second']:.0f} tokens/s, {row['decoder_bytes_share']:.0%} of "
        f"its bytes/s\n"
        f"  at the machine's limits both would take {row['floor']:.1f} s: "
        f"{median['plain'] / row['floor']:.1f} times"
    )
    if "t5x" in median:
        print(f"  T5X's beam search around the plain step {median['t5x']:.1f} s")
    return row


def _torch_port(python: str, tokens: int, count: int) -> None:
    command = [python, str(ROOT / "benchmarks" / "torch_port.py")]
    command += ["--tokens", str(tokens), "--segments", str(count)]
    print("  " + subprocess.check_output(command, text=True).strip(), flush=True)


def slots(options: argparse.Namespace, limit: limits.Limits) -> list[dict[str, Any]]:
    """The `mt3` size by slots: 32 segments of 96 tokens."""
    frames, rows = random_frames(32), []
    decoders = {
        number: SegmentDecoder(
            random_model(),
            MT3,
            decoding.DecodeOptions(strategy=ForcedLengths((96,)), num_slots=number),
        )
        for number in options.slots
    }
    functions = {
        str(number): functools.partial(streamed, decoder, frames)
        for number, decoder in decoders.items()
    }
    take_turns(functions, 1)
    for name, times in take_turns(functions, options.rounds).items():
        seconds = statistics.median(times)
        rows.append({"slots": int(name), "seconds": seconds})
        print(f"{name:>3} slots: {32 * SECONDS / seconds:.1f} times real time")
    return rows


def precision(
    options: argparse.Namespace, limit: limits.Limits
) -> list[dict[str, Any]]:
    """Float32 and bfloat16: matrix products, and two networks.

    The `mt3` size, 16 segments of 96 tokens, and the weights in the package on the
    example, from the frames and greedily, with scores.
    """
    size = 2048
    for name, product in (
        ("matrix product", lambda a, b: a @ b),
        ("with the second matrix transposed", lambda a, b: a @ b.T),
    ):
        for dtype in _DTYPES:
            call = functools.partial(
                jax.jit(product), *[jnp.ones((size, size), dtype)] * 2
            )
            speed = 2 * size**3 / limits.best_seconds(call)
            print(f"{name}, {dtype}: {speed / 1e9:.0f} GFLOP/s")
    frames, rows = random_frames(16), []
    functions, tokens = {}, {}
    for dtype in _DTYPES:
        decoder = SegmentDecoder(
            random_model(),
            MT3,
            decoding.DecodeOptions(strategy=ForcedLengths((96,)), dtype=dtype),
        )
        functions[dtype] = functools.partial(streamed, decoder, frames)
        tokens[dtype] = streamed(decoder, frames)
    pairs = zip(tokens["float32"], tokens["bfloat16"], strict=True)
    equal = float(np.mean([np.mean(a == b) for a, b in pairs]))
    for name, times in take_turns(functions, options.rounds).items():
        seconds = statistics.median(times)
        rows.append({"dtype": name, "seconds": seconds})
        print(f"{name:>9}: {16 * SECONDS / seconds:.1f} times real time")
    print(f"{equal:.0%} of the tokens equal (random weights have no clear favourites)")

    audio, rate = soundfile.read(EXAMPLE, dtype="float32")
    reference = reader.read_midi(EXAMPLE.with_suffix(".mid"))
    functions = {}
    for decode, dtype in itertools.product(("frames", "greedy"), _DTYPES):
        chosen = inference.TranscribeOptions(decode=decode, dtype=dtype)
        model = inference.InferenceModel("default", chosen)
        functions[f"{decode}, {dtype}"] = functools.partial(
            model.transcribe, audio, sample_rate=rate
        )
    take_turns(functions, 1)
    for name, times in take_turns(functions, options.rounds).items():
        seconds = statistics.median(times)
        notes = functions[name]().notes
        scores = counts.scores_of_counts(counts.song_counts(reference, notes))
        onset, offset = scores["Onset F1"], scores["Onset + offset F1"]
        rows.append({"dtype": name, "seconds": seconds, "notes": len(notes)} | scores)
        print(
            f"{name:>16}: {len(audio) / rate / seconds:.1f} times real time; "
            f"{len(notes)} notes, onset F1 {onset:.4f}, with offsets {offset:.4f}"
        )
    return rows


def default(options: argparse.Namespace, limit: limits.Limits) -> dict[str, Any]:
    """The weights in the package on the example, six times over.

    From the frames alone, and with the token decoder by slots.
    """
    audio, rate = soundfile.read(EXAMPLE, dtype="float32")
    audio = np.tile(audio, 6)
    duration = len(audio) / rate
    figures: dict[str, Any] = {}
    ways = {"frames": {"decode": "frames"}}
    ways |= {f"{n} slots": {"decode": "greedy", "num_slots": n} for n in options.slots}
    functions = {}
    for name, chosen in ways.items():
        model = inference.InferenceModel(
            "default", inference.TranscribeOptions(**chosen)
        )
        functions[name] = functools.partial(model.transcribe, audio, sample_rate=rate)
    take_turns(functions, 1)
    for name, times in take_turns(functions, options.rounds).items():
        figures[name] = duration / statistics.median(times)
        before = time.process_time()
        functions[name]()
        # Other work on the machine does not lower this.
        processor = duration / (time.process_time() - before)
        print(
            f"{name:>8}: {figures[name]:.1f} times real time, at best "
            f"{duration / min(times):.1f}; {processor:.1f} s of audio a second of one "
            "core"
        )
    config, params, frames = example_segments()
    decoder = SegmentDecoder(params, config, decoding.DecodeOptions(max_length=320))
    plain = plain_decoder.PlainDecoder(params, config, decoding.Beam(), 320)
    pair = {
        "ours": lambda: streamed(decoder, frames),
        "plain": lambda: plain.run(frames),
    }
    take_turns(pair, 1)
    times = take_turns(pair, options.rounds)
    ours, theirs = (statistics.median(times[name]) for name in ("ours", "plain"))
    figures["plain_ratio"] = theirs / ours
    print(
        f"one-beam search alone: ours {ours:.2f} s, plain {theirs:.2f} s: "
        f"{theirs / ours:.1f} times"
    )
    return figures


def example_segments() -> tuple[network.T5Config, dict[str, Any], np.ndarray]:
    """Returns the default network and the example as segments [n, T, D]."""
    loaded = checkpoints.load(checkpoints.resolve("default"))
    feed = inference.Feed(inference.InferenceModel("default"), [EXAMPLE])
    frames = np.stack([frames for _, frames in feed.segments()])
    return network.T5Config.from_dict(loaded.config.network), loaded.params, frames


def startup(options: argparse.Namespace, limit: limits.Limits) -> dict[str, float]:
    """A fresh process each time, the second of which finds its programs compiled."""
    command = [sys.executable, "-m", "mt3.cli", "transcribe", str(EXAMPLE)]
    command += ["-o", "-", "--format", "jsonl", "-q"]
    firsts, ends = [], []
    for _ in range(options.rounds + 1):
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None
        process.stdout.readline()
        firsts.append(time.perf_counter() - start)
        process.stdout.read()
        if process.wait():
            raise SystemExit(f"{' '.join(command)} failed")
        ends.append(time.perf_counter() - start)
    code = "import time, jax; t = time.perf_counter(); import mt3.inference; "
    code += "print(time.perf_counter() - t)"
    imports = [
        float(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT))
        for _ in range(options.rounds)
    ]
    figures = {
        "first_note": statistics.median(firsts[1:]),
        "end": statistics.median(ends[1:]),
        "import_after_jax": statistics.median(imports),
    }
    print(
        f"first note after {figures['first_note']:.1f} s, all 29 s of audio after "
        f"{figures['end']:.1f} s (the first run: {firsts[0]:.1f} s, {ends[0]:.1f} s); "
        f"import of the transcribe path after jax {figures['import_after_jax']:.2f} s"
    )
    return figures


def profile(options: argparse.Namespace, limit: limits.Limits) -> dict[str, Any]:
    """Operations of a decoding step and of the encoder, `mt3` size, 8 segments."""
    decoder = SegmentDecoder(
        random_model(),
        MT3,
        decoding.DecodeOptions(strategy=ForcedLengths((1024,)), num_slots=8),
    )
    programs, frames, steps = decoder.program, random_frames(8), 50
    batch = jax.block_until_ready(programs.encode(frames))
    arguments = (programs.spec, programs._weights, jnp.asarray(frames))
    hlo = decoding_steps._encode.lower(*arguments).compile().as_text()
    rows = op_profile.profile(lambda: programs.encode(frames), hlo)
    print(f"encoder, 8 segments\n{op_profile.table(rows, 1)}")
    carry = programs.start(8, FRAMES, 128)
    for slot in range(8):
        carry = programs.admit(carry, batch, slot, slot, slot)
    limits_ = (np.int32(steps), np.int32(1))
    hlo = decoding_steps._run_steps.lower(
        programs.spec, programs._weights, carry, *limits_
    )
    hlo = hlo.compile().as_text()
    carry = jax.block_until_ready(programs.run(carry, 1, 1))
    step_rows = op_profile.profile(lambda: programs.run(carry, steps, 1), hlo)
    print(f"a step of 8 segments, cache of 128\n{op_profile.table(step_rows, steps)}")
    return {"encoder": rows[:15], "step": step_rows[:15]}


def check(options: argparse.Namespace, limit: limits.Limits) -> dict[str, int]:
    """Tokens against the plain decoder's, on real inputs."""
    config, params, frames = example_segments()
    strategy = decoding.Beam()
    decoder = SegmentDecoder(params, config, decoding.DecodeOptions(max_length=320))
    plain = plain_decoder.PlainDecoder(params, config, strategy, max_length=320)
    ours, theirs = streamed(decoder, frames), plain.run(frames)
    counts = {"example": require_equal(ours, theirs, "example")}
    from tests.support import golden_model

    golden = golden_model.training_batch()["encoder_input_tokens"]
    config = dataclasses.replace(golden_model.CONFIG, dropout_rate=0.0)
    decoder = SegmentDecoder(
        golden_model.params(), config, decoding.DecodeOptions(max_length=64)
    )
    plain = plain_decoder.PlainDecoder(golden_model.params(), config, strategy, 64)
    ours, theirs = streamed(decoder, golden), plain.run(np.asarray(golden))
    counts["golden"] = require_equal(ours, theirs, "golden inputs")
    for name, count in counts.items():
        print(f"{name}: {count} tokens, equal")
    return counts


_PARTS = {
    "forced": forced,
    "slots": slots,
    "precision": precision,
    "default": default,
    "startup": startup,
    "profile": profile,
    "check": check,
}
