"""Prompts as language models read them: as what a person says in a chat."""

from __future__ import annotations

from typing import Any

from retouch.editing.diffusion.model import PipelineError

WORDS = 512
"""Tokens of a prompt that are read at most, with those of the chat around it."""


def checked_length(tokenizer: Any, prompt: str, longest: int, **template: Any) -> int:
    """How many tokens a prompt becomes, with the chat's `template`. PipelineError for more than `longest`, of which
    diffusers would read the first.
    """
    chat = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **template)
    count = len(tokenizer(text).input_ids)
    if count > longest:
        raise PipelineError(
            f"the prompt has {count} tokens, the text encoder reads {longest}; shorten it: {prompt[:40]!r}..."
        )
    return count
