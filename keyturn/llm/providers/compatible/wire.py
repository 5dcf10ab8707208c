"""Servers that are compatible with OpenAI's chat completions: llama.cpp, Ollama, vLLM, gateways."""

from dataclasses import replace

from pydantic import JsonValue

from keyturn.llm.providers.openai.wire import WIRE as OPENAI_WIRE
from keyturn.llm.providers.openai.wire import common_payload
from keyturn.tasks.definition import Prompt


def payload(model: str, prompt: Prompt) -> dict[str, JsonValue]:
    """Return the request body for a compatible server: the fields that all of them know, and no others."""
    return {**common_payload(model, prompt), "max_tokens": prompt.max_output_tokens}


WIRE = replace(OPENAI_WIRE, payload=payload)
