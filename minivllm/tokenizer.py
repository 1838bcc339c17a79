"""Text to token ids and back, and the chat template.

Only the ``tokenizers`` library works here. A GGUF file carries its vocabulary in a form of its own;
``transformers`` converts it, which takes 5–10 s, so the result is kept in the cache directory and
the next start takes 0.1 s. Counterpart in vLLM: ``vllm/tokenizers/``. Left out: slow
tokenizers, Mistral's own format, tools in chat templates, code that comes with a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import tokenizers

from minivllm.errors import ModelFileError, PromptError
from minivllm.models.source import ModelSource, cache_dir
from minivllm.tokenizer_config import (
    TokenizerConfig,
    config_of_directory,
    json_object,
    saved_config,
)
from minivllm.trace.texts import text_after

logger = logging.getLogger(__name__)

ROLES = ("system", "user", "assistant", "tool")


class Tokenizer:
    """One model's tokenizer. Safe to use from several threads."""

    def __init__(self, path: Path, config: TokenizerConfig) -> None:
        self._config = config
        self._tokenizer = _open(path)
        self.vocab_size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.eos_token_id: int | None = self._id_of(config.eos_token)
        self.other_eos_token_ids = [
            i for i in config.generation_eos_ids if i != self.eos_token_id and i < self.vocab_size
        ]
        """Ids that end a text as EOS does (``<|eot_id|>`` beside ``<|end_of_text|>``)."""
        self.bos_token_id: int | None = self._id_of(config.bos_token)
        added = self._tokenizer.get_added_tokens_decoder()
        self._added = {token_id: token.content for token_id, token in added.items()}
        self.added_token_ids: set[int] = set(self._added)
        """All that stand beside the vocabulary, the special ones among them."""
        self._texts: dict[int, str] = {}
        """What logprobs name again and again: at most the vocabulary."""
        self.all_special_ids: set[int] = {i for i, token in added.items() if token.special}

    def _id_of(self, token: str | None) -> int | None:
        return self._tokenizer.token_to_id(token) if token else None

    # --- text ↔ ids ------------------------------------------------------------------------------

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids; ``add_special_tokens`` lets the model's own rule put a BOS in front."""
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of these ids; bytes that are no whole character show as U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes this token adds to the text; of a special token, its name's. An id that the
        model knows and the tokenizer does not (a padded vocabulary) adds none."""
        if token_id in self._added:
            return self._added[token_id].encode()
        piece = self._tokenizer.id_to_token(token_id)
        if piece is None:
            return b""
        if self._byte_level:
            return b"".join(_BYTE_OF[c] if c in _BYTE_OF else c.encode() for c in piece)
        if len(piece) == 6 and piece.startswith("<0x"):  # sentencepiece's byte tokens
            return bytes([int(piece[3:5], 16)])
        return piece.replace("▁", " ").encode()

    def token_text(self, token_id: int) -> str:
        """One token as shown to people; part of a character shows as U+FFFD."""
        text = self._texts.get(token_id)
        if text is None:
            text = self.token_bytes(token_id).decode("utf-8", errors="replace")
            self._texts[token_id] = text
        return text

    def piece(self, token_id: int) -> str:
        """One token as the vocabulary writes it (``Ġworld``); "" for an id it does not have."""
        return self._tokenizer.id_to_token(token_id) or ""

    def text_after(self, token_id: int, before: Sequence[int]) -> str:
        """What a token adds to the text of those before it: the characters that it completes."""
        return text_after(self.token_bytes, token_id, before)

    @cached_property
    def _byte_level(self) -> bool:
        # Asked of the decoder alone: the first request would else wait until the whole vocabulary
        # had been written as JSON.
        decoder = self._tokenizer.decoder
        return decoder is not None and b'"ByteLevel"' in decoder.__getstate__()

    # --- chat ------------------------------------------------------------------------------------

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as one text, in the form the model was trained on.

        Raises PromptError: no messages, an unknown role, content that is no text, a model
        without a template, or a template that refuses the conversation.
        """
        from jinja2 import TemplateError

        for i, message in enumerate(_checked(messages)):
            role, content = message.get("role"), message.get("content")
            if role not in ROLES:
                raise PromptError(f"messages[{i}].role: got {role!r}; allowed: {', '.join(ROLES)}")
            if not isinstance(content, str):
                raise PromptError(
                    f"messages[{i}].content must be a text, got {type(content).__name__}"
                )
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=add_generation_prompt,
                bos_token=self._config.bos_token or "",
                eos_token=self._config.eos_token or "",
            )
        except TemplateError as error:
            raise PromptError(f"the model's chat template refuses the messages: {error}") from None

    @cached_property
    def _template(self) -> Any:
        """The compiled template, in a sandbox: it came with the checkpoint."""
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if self._config.chat_template is None:
            raise PromptError("this model has no chat template; send a plain prompt instead")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.globals["raise_exception"] = _refuse
        return environment.from_string(self._config.chat_template)

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True
    ) -> list[int]:
        """The ids of :meth:`apply_chat_template`, except that content cannot forge control tokens.

        ``<|im_end|>`` written by a user is encoded as ordinary characters. To know which were
        written by whom, each such text in a message stands as a marker while the template runs.
        """
        names = sorted((self._added[i] for i in self.all_special_ids), key=len, reverse=True)
        mark = f"\ue000{uuid.uuid4().hex}:"  # nobody can write it: it is made up on the spot
        found: list[str] = []
        marked = []
        for message in _checked(messages):
            content: Any = message.get("content")
            for name in names if isinstance(content, str) else ():
                if name in content:
                    content = content.replace(name, f"{mark}{len(found)}\ue001")
                    found.append(name)
            marked.append({**message, "content": content})
        text = self.apply_chat_template(marked, add_generation_prompt)
        if not found:
            return self.encode(text, add_special_tokens=False)
        first, *rest = text.split(mark)
        ids = self.encode(first, add_special_tokens=False)
        for piece in rest:
            number, after = piece.split("\ue001", 1)
            ids += self._plain.encode(found[int(number)], add_special_tokens=False).ids
            ids += self.encode(after, add_special_tokens=False)
        return ids

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        """The same tokenizer, which takes a special token's name for ordinary text."""
        plain = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        plain.encode_special_tokens = True
        return plain


def _checked(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    if not messages or not all(isinstance(message, Mapping) for message in messages):
        raise PromptError("messages must be a list of at least one {'role': …, 'content': …}")
    return messages


def _refuse(message: str) -> NoReturn:
    """What a template calls to reject a conversation."""
    from jinja2 import TemplateError

    raise TemplateError(message)


def _open(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ModelFileError(f"{path} is no tokenizer that can be read: {error}") from None


def _bytes_of_characters() -> dict[str, bytes]:
    """Byte-level BPE writes every byte as a printable character (source: GPT-2's encoder.py):
    printable Latin-1 as itself, the other 68 bytes as the characters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shown = {chr(byte): bytes([byte]) for byte in printable}
    return shown | {chr(0x100 + i): bytes([byte]) for i, byte in enumerate(others)}


_BYTE_OF = _bytes_of_characters()


# --- where it comes from -------------------------------------------------------------------------


def get_tokenizer(source: ModelSource) -> Tokenizer:
    """The model's tokenizer, converted at first use if it must be.

    Raises ModelFileError if the files hold none that can be read, or one of another model.
    """
    tokenizer = _from_files(source)
    if source.kind == "safetensors":
        _check_vocabulary(tokenizer, source.path)
    return tokenizer


def _from_files(source: ModelSource) -> Tokenizer:
    if source.kind == "safetensors" and (source.path / "tokenizer.json").is_file():
        return Tokenizer(source.path / "tokenizer.json", config_of_directory(source.path))
    directory = _converted_directory(source.path)
    if (directory / "config.json").is_file():
        try:
            return _open_converted(directory)
        except ModelFileError as error:  # cut short by a crash, say: what was made can be made anew
            logger.warning("%s; it is made again", error)
    try:
        if directory.exists():
            shutil.rmtree(directory)
        _convert(source, directory)
    except OSError as error:  # a read-only or full disk: only the next start is slower for it
        logger.warning(
            "the converted tokenizer cannot be kept in %s (%s); name another directory in "
            "MINIVLLM_HOME to save some seconds at each start",
            directory.parent,
            error.strerror or error,
        )
        return _convert_for_once(source)
    return _open_converted(directory)


def _convert_for_once(source: ModelSource) -> Tokenizer:
    try:
        with tempfile.TemporaryDirectory(prefix="minivllm-") as name:
            _convert(source, Path(name) / "tokenizer")
            return _open_converted(Path(name) / "tokenizer")
    except OSError as error:
        raise ModelFileError(
            f"the tokenizer of {source.path} cannot be converted: no directory can be written "
            f"({error.strerror or error})\nwhat to do: free 10 MB, or name another directory in "
            "MINIVLLM_HOME or TMPDIR"
        ) from error


def _check_vocabulary(tokenizer: Tokenizer, directory: Path) -> None:
    """An id beyond the embedding would fail the step of everybody who is in it. A vocabulary that
    is padded, so larger than the tokenizer's, is fine."""
    rows = json_object(directory / "config.json").get("vocab_size")
    if type(rows) is int and tokenizer.vocab_size > rows:
        raise ModelFileError(
            f"{directory} holds a tokenizer of {tokenizer.vocab_size} tokens and a model of only "
            f"{rows} (vocab_size in config.json): they do not belong together. Fetch it again"
        )


def _open_converted(directory: Path) -> Tokenizer:
    return Tokenizer(directory / "tokenizer.json", saved_config(directory / "config.json"))


def _converted_directory(path: Path) -> Path:
    """Where the conversion of this very file is kept: another size or date is another file."""
    stat = path.stat()
    key = f"1|{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"  # 1: form of what is kept
    return (
        cache_dir() / "tokenizers" / f"{path.stem}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    )


def _convert(source: ModelSource, target: Path) -> None:
    """Convert through ``transformers`` into a directory that appears whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix="convert-"))
    try:
        converted = _through_transformers(source)
        text = converted.backend_tokenizer.to_str()  # its own save() hides what the disk says
        (work / "tokenizer.json").write_text(text, encoding="utf-8")
        config = TokenizerConfig(
            converted.chat_template if isinstance(converted.chat_template, str) else None,
            converted.bos_token,
            converted.eos_token,
        )
        (work / "config.json").write_text(json.dumps(asdict(config)), encoding="utf-8")
        try:
            os.rename(work, target)
        except OSError:
            if not (target / "config.json").is_file():  # else another process was faster
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _through_transformers(source: ModelSource) -> Any:
    if source.kind == "gguf":
        from minivllm.models.gguf_file import GGUFFile

        GGUFFile(source.path)  # says of a damaged file what transformers would not
    from transformers import AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": False}  # unsaid, it asks the terminal
    directory = source.path
    if source.kind == "gguf":
        directory, options["gguf_file"] = source.path.parent, source.path.name
    try:
        return AutoTokenizer.from_pretrained(directory, **options)
    except Exception as error:  # whatever the conversion stumbles over, the file is why
        raise ModelFileError(f"{source.path} has no tokenizer that can be read: {error}") from error
