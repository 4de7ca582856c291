"""A small model of GGUF's architecture "llama", the same bytes everywhere: no float is computed to make it."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

WIDTH, HEADS, KV_HEADS, INNER, LAYERS, CONTEXT = 64, 4, 2, 96, 2, 48
CONTROL = ["<end>", "<user>", "<model>"]
TEMPLATE = (
    "{% for message in messages %}<user>{{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<model>{% endif %}"
)


def alphabet() -> list[str]:
    """What byte-level vocabularies write each byte as, in the order of GPT-2's: printable ones as themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def vocabulary() -> tuple[list[str], list[str]]:
    """Words, and the pairs they are merged from."""
    merges = ["t h", "Ġ a", "Ġ th", "i n"]
    return CONTROL + alphabet() + [merge.replace(" ", "") for merge in merges], merges


class Random:
    """Numbers from PCG64's raw bits, whose stream NumPy promises to keep."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def below(self, n: int, *shape: int) -> np.ndarray:
        raw = self._bits.random_raw(int(np.prod(shape)))
        return (raw >> np.uint64(40)).astype(np.int64).reshape(shape) % n

    def halves(self, lowest: int, *shape: int) -> np.ndarray:
        """Positive float16 of 2**lowest to 2**(lowest + 1), as their bytes."""
        bits = ((lowest + 15) << 10) + self.below(1024, *shape)
        return bits.astype("<u2")[..., None].view(np.uint8)

    def q4_1(self, rows: int, inputs: int) -> np.ndarray:
        """Blocks of codes 0..15 with a scale of about 1/32 and a minimum of about -8 of them: (rows, bytes)."""
        scale = self.halves(-5, rows, inputs // 32)
        minimum = self.halves(-2, rows, inputs // 32) | np.uint8([0, 0x80])
        codes = self.below(256, rows, inputs // 32, 16).astype(np.uint8)
        return np.concatenate([scale, minimum, codes], axis=2).reshape(rows, -1)

    def q8_0(self, rows: int, inputs: int) -> np.ndarray:
        scale = self.halves(-7, rows, inputs // 32)
        codes = (self.below(255, rows, inputs // 32, 32) - 127).astype(np.int8).view(np.uint8)
        return np.concatenate([scale, codes], axis=2).reshape(rows, -1)

    def gains(self, n: int) -> np.ndarray:
        """Weights of a norm: sixteenths from 1/2 to 3/2."""
        return ((8 + self.below(17, n)) / 16).astype(np.float32)


def write(path: Path, *, architecture: str = "llama", tied: bool = True, pre: str = "smollm") -> Path:
    """The file. Its embedding is Q8_0, its other matrices are Q4_1."""
    words, merges = vocabulary()
    writer, random = gguf.GGUFWriter(path, architecture), Random(17)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_merges(merges)
    writer.add_token_types([3 if word in CONTROL else 1 for word in words])
    writer.add_eos_token_id(0)
    writer.add_chat_template(TEMPLATE)

    def put(name: str, raw: np.ndarray, kind: str) -> None:
        writer.add_tensor(f"{name}.weight", raw, raw_dtype=gguf.GGMLQuantizationType[kind])

    put("token_embd", random.q8_0(len(words), WIDTH), "Q8_0")
    keys = WIDTH // HEADS * KV_HEADS
    for i in reversed(range(LAYERS)):  # files have blocks in any order: 0, 1, 10, 11, ..., 2
        for name, n, k in (
            ("attn_q", WIDTH, WIDTH), ("attn_k", keys, WIDTH), ("attn_v", keys, WIDTH), ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", INNER, WIDTH), ("ffn_up", INNER, WIDTH), ("ffn_down", WIDTH, INNER),
        ):  # fmt: skip
            put(f"blk.{i}.{name}", random.q4_1(n, k), "Q4_1")
        for name in ("attn_norm", "ffn_norm"):
            put(f"blk.{i}.{name}", random.gains(WIDTH), "F32")
    put("output_norm", random.gains(WIDTH), "F32")
    if not tied:
        put("output", random.q4_1(len(words), WIDTH), "Q4_1")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
