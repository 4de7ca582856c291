"""What examples/llama.py says and hears: the tokenizer and the chat template in a GGUF file, answers on a terminal."""

from __future__ import annotations

from typing import Any

CONTROL = 3  # the type of tokens that stand for no text

# What stands in front of the byte-level split: each digit is a token of its own, or nothing.
SPLITS = {"smollm": "digits", "gpt-2": ""}

HARMLESS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])  # without what would steer a terminal


def tokenizer_of(meta: dict[str, Any]) -> Any:
    """Byte-pair encoding with the file's words and merges; only the splits above are known."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind, pre = meta.get("tokenizer.ggml.model"), meta.get("tokenizer.ggml.pre")
    if kind != "gpt2" or pre not in SPLITS:
        raise ValueError(f"the tokenizer must be 'gpt2' of one of {', '.join(SPLITS)}, got {kind!r} of {pre!r}")
    words, kinds = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in meta["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    digits = [pre_tokenizers.Digits(individual_digits=True)] if SPLITS[pre] else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(word, normalized=False) for word, k in zip(words, kinds, strict=True) if k == CONTROL]
    tokenizer.add_special_tokens(special)
    return tokenizer


def chat(meta: dict[str, Any], prompt: str) -> str:
    """The prompt as the model was trained to be asked: the file's own template, in a sandbox."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if "tokenizer.chat_template" not in meta:
        return prompt
    try:
        template = ImmutableSandboxedEnvironment(trim_blocks=True).from_string(meta["tokenizer.chat_template"])
        text: str = template.render(messages=[{"role": "user", "content": prompt}], add_generation_prompt=True)
    except TemplateError as error:
        raise ValueError(f"the file's chat template fails: {error}") from error
    return text


class Answers:
    """Prints several answers while they are made: one as it comes, and once it has ended what the next has so far."""

    def __init__(self, tokenizer: Any, prompts: list[str]) -> None:
        from tokenizers.decoders import DecodeStream  # holds the bytes of a character back until it is whole

        self._tokenizer, self._prompts = tokenizer, prompts
        self._streams = [DecodeStream(skip_special_tokens=True) for _ in prompts]
        self._waiting, self._turn = [""] * len(prompts), 0
        if len(prompts) > 1:
            print(f"> {prompts[0]}")

    def add(self, tokens: dict[int, int]) -> None:
        """The next token of each answer that has not ended, by its number."""
        for i, token in tokens.items():
            piece = self._streams[i].step(self._tokenizer, token) or ""
            self._waiting[i] += piece.translate(HARMLESS)
        while True:
            print(self._waiting[self._turn], end="", flush=True)
            self._waiting[self._turn] = ""
            if self._turn in tokens or self._turn + 1 == len(self._prompts):
                return
            self._turn += 1
            print(f"\n\n> {self._prompts[self._turn]}")

    def end(self) -> None:
        self.add({})
        print()
