"""One message for many pages, encoded once.

``socketio.emit`` encodes what it is given at each call, and thirty pages that stand at the same
place would have the same batch encoded thirty times. A :class:`Frame` is encoded when it is made;
to send it is to put it into a page's queue. Only the publisher's thread does either.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engineio.packet import MESSAGE
from engineio.packet import Packet as EnginePacket
from socketio.packet import EVENT, Packet

NAMESPACE = "/"


@dataclass(frozen=True, slots=True)
class Frame:
    packets: tuple[EnginePacket, ...]
    """The message, and what it holds of bytes."""


class Wire:
    """``server``: the ``socketio.Server`` below Flask's."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def frame(self, event: str, *data: Any) -> Frame:
        encoded = Packet(EVENT, [event, *data], NAMESPACE).encode()
        parts = encoded if isinstance(encoded, list) else [encoded]
        return Frame(tuple(EnginePacket(MESSAGE, part) for part in parts))

    def send(self, frame: Frame, sid: str) -> None:
        """A page that has gone meanwhile gets nothing."""
        engine_sid = self._server.manager.eio_sid_from_sid(sid, NAMESPACE)
        if engine_sid is not None:
            for packet in frame.packets:
                self._server._send_eio_packet(engine_sid, packet)

    def emit(self, event: str, payload: Any, to: str | None = None) -> None:
        """To one page; None: to all."""
        if to is not None:
            return self.send(self.frame(event, payload), to)
        everybody = self._server.manager.get_participants(NAMESPACE, None)
        return self.emit_to_each(event, payload, [sid for sid, _ in everybody])

    def emit_to_each(self, event: str, payload: Any, sids: Iterable[str]) -> None:
        frame = self.frame(event, payload)
        for sid in sids:
            self.send(frame, sid)
