"""Prompts as language models read them: as what a person says in a chat."""

from __future__ import annotations

from typing import Any

WORDS = 512
"""Tokens of a prompt that are read at most, with those of the chat around it."""


def chat(tokenizer: Any, thinking: bool) -> str:
    """A chat with `{}` in the place of the prompt; thinking: whether the answer begins with a thought."""
    said = [{"role": "user", "content": "{}"}]
    found: str = tokenizer.apply_chat_template(
        said, tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    return found
