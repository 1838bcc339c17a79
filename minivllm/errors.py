"""Named errors, all in one place.

Every message says what was given, what is allowed and, where it helps, what to do. Nothing in
this project guards input with a bare ``assert``.
"""


class MiniVLLMError(Exception):
    """Base of every error this package raises on purpose."""

    exit_status = 1
    """What a command ends with that fails by it: 2 where it was asked for wrongly, or where a part
    is not installed."""


class ConfigError(MiniVLLMError, ValueError):
    """A configuration field has a value that is not allowed.

    Attributes: ``field`` (dotted name), ``given`` (the value), ``allowed`` (what would do).
    """

    exit_status = 2

    def __init__(self, field: str, given: object, allowed: str) -> None:
        self.field, self.given, self.allowed = field, given, allowed
        super().__init__(f"{field}: got {given!r}; allowed: {allowed}")


class SamplingParamsError(MiniVLLMError, ValueError):
    """A sampling parameter is out of its range. ``param`` names it as the OpenAI API does."""

    exit_status = 2

    def __init__(self, param: str, given: object, allowed: str) -> None:
        self.param, self.given, self.allowed = param, given, allowed
        super().__init__(f"{param} must be {allowed}, got {given!r}")


class StructuredOutputError(SamplingParamsError):
    """A schema, regex, choice or grammar cannot be taken. ``param``: ``structured_outputs``, or
    a field of it (``structured_outputs.regex``). What was given may be large: it is not told."""

    def __init__(self, field: str, allowed: str) -> None:
        super().__init__(f"structured_outputs.{field}".rstrip("."), None, allowed)
        self.args = (f"{self.param} must be {allowed}",)


class PromptError(MiniVLLMError, ValueError):
    """A prompt cannot be taken: empty, not text or token ids, or ids outside the vocabulary."""


class PromptTooLongError(PromptError):
    """A prompt does not fit the context window or the whole KV pool, so it could never run."""


class ModelError(MiniVLLMError):
    """A model cannot be found, read or understood; the message lists what is supported."""


class UnsupportedModelError(ModelError):
    """The checkpoint's architecture, format or quantisation is not one that is implemented."""


class ModelFileError(ModelError):
    """A checkpoint file is missing, cut short or altered (wrong checksum)."""


class MissingExtraError(MiniVLLMError, ImportError):
    """Something needs an optional part of the package that is not installed."""

    exit_status = 2


class SetupError(MiniVLLMError):
    """A part of the set-up failed: ``what`` happened, and the ``remedy``."""

    def __init__(self, what: str, remedy: str) -> None:
        self.what, self.remedy = what, remedy
        super().__init__(f"{what}\nwhat to do: {remedy}")


class EndpointError(MiniVLLMError):
    """A server that is to be measured cannot be reached, or is no OpenAI-compatible one."""


class TraceError(MiniVLLMError, ValueError):
    """A trace file cannot be read; the message names the file and the line."""


class ArtifactError(TraceError):
    """A step's arrays cannot be read: the file beside the trace is cut, altered or misnamed."""


class MissingArtifactError(ArtifactError):
    """A step's arrays are not there: never captured, no longer kept, or moved away."""


class ExportError(TraceError):
    """A run cannot be put into a file that opens from disk: too large, or without its beginning."""

    exit_status = 2


class ReplayError(TraceError):
    """A trace can be read and not be run again; the message says what it lacks."""

    exit_status = 2


class ScenarioError(MiniVLLMError, ValueError):
    """A scenario or workload file is malformed; the message names the file and the field."""


class EngineUnavailableError(MiniVLLMError):
    """No engine takes requests at the moment: each is starting, drained, or dead and to be
    restarted. Asking again a little later makes sense (HTTP 503 with Retry-After)."""


class LessonError(MiniVLLMError):
    """A lesson that is not there, or a file of one, or of the reader's progress, that is broken."""


class QueueFullError(MiniVLLMError):
    """As many requests wait as may (``--max-queue-size``); see EngineUnavailableError."""


class EngineBusyError(MiniVLLMError, TimeoutError):
    """An engine could not be drained or restarted in the time that was given."""


class AdminError(MiniVLLMError):
    """A running server could not be asked, or does not do what it was asked for."""


class AttachError(MiniVLLMError):
    """A running server cannot be stepped: nobody answers, it lets nobody in, it has no engine.
    ``status``: what it answered by HTTP, if it did."""

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


class EngineDeadError(MiniVLLMError, RuntimeError):
    """The engine's loop has ended by an error; the cause is chained."""


class EngineStartError(EngineDeadError):
    """An engine's process ended, or said nothing for too long, before it took requests. What went
    wrong in it by name (a bad configuration, a missing model) is raised as that error instead."""


class OwnClassError(MiniVLLMError, TypeError):
    """A scheduler or KV manager of one's own broke a promise of ``core/interfaces.py``."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"{what} {problem}; see minivllm/core/interfaces.py")


class DuplicateRequestError(MiniVLLMError, ValueError):
    """A request id is already in use by a request that has not finished."""
